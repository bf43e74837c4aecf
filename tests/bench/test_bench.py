import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import page
from bench.row import Goal, Row

ROOT = Path(__file__).parents[2]
# Without the peers, which would have to be installed first.
GROUPS = ("adds", "latency", "lateness", "footprint")
_ITS_OWN = [word for group in GROUPS for word in ("--only", group)]


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark runs on Linux only")
def test_a_quick_run_prints_and_writes_a_row_for_each_measure(tmp_path: Path):
    written = tmp_path / "page.md"
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *_ITS_OWN, "--page", written],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    text = written.read_text()
    for measure in (
        "unary adds ÷ echo",
        "store round trips per add, 64 in flight",
        "add, p99, 1,000 a second",
        "lateness, sealed, p99",
        "lateness, received, max",
        "buffers due at once, last received",
        "start until serving, embedded store",
        "memory of the idle server",
        "store memory per open buffer",
    ):
        assert measure in ran.stdout
        (line,) = [line for line in text.splitlines() if measure in line]
        assert re.search(r"\| [\d,.]+", line), line
    assert "cores of" in text
    assert "embedded" in text


def test_a_goal_is_for_the_median_of_the_rounds():
    assert Row("a", [1, 9, 2], goal=Goal(2)).reached == "✓"
    assert Row("a", [1, 9, 2], goal=Goal(1)).reached == "✗"
    assert Row("a", [1, 9, 2], goal=Goal(3, at_least=True)).reached == "✗"
    assert Row("a", [1, 9, 2]).reached == ""


def test_the_page_has_figure_spread_goal_and_the_note_once():
    rows = [
        Row("adds", [1000.4, 3000, 2000], "/s", Goal(1500, at_least=True), note="said once"),
        Row("late", [0.5], "ms", note="said once"),
    ]
    text = page(rows, ["2 cores"])
    assert "| adds [1] | 2,000 /s | 1,000 to 3,000 | ≥ 1,500 /s | ✓ |" in text
    assert "| late [1] | 0.5 ms | 0.5 to 0.5 |  |  |" in text
    assert text.count("said once") == 1
    assert "- 2 cores" in text
