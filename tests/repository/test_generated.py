import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.paths import GENERATED, ROOT

NO_TOOLS = 3


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the pinned generator ends with 3.13")
def test_the_generated_code_is_what_the_protos_give(tmp_path: Path):
    done = subprocess.run(
        [ROOT / "proto" / "generate", tmp_path],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if done.returncode == NO_TOOLS:
        pytest.skip(
            f"the pinned generator cannot be installed: {done.stderr.strip().splitlines()[-1]}"
        )
    assert done.returncode == 0, done.stderr
    assert _contents(tmp_path / "tidegate" / "v1") == _contents(GENERATED)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
