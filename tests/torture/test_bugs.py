"""Bugs can be planted: each has its place in the server as it is now."""

from pathlib import Path

import pytest

from tests.torture.bugs import BUGS, Bug, planted


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug: Bug, tmp_path: Path):
    changed = planted(bug, tmp_path) / "tidegate_server" / bug.file
    text = changed.read_text()
    assert bug.instead in text
    if bug.file.endswith(".py"):
        compile(text, str(changed), "exec")
