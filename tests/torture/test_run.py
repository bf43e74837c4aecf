"""The run keeps what came out, and the page shows it."""

from pathlib import Path

from tests.torture.report import page
from tests.torture.run import Result, load, save
from tests.torture.score import Score

HELD = Result("hangs", "recovers", 7, 3, 100, 2.0, Score(3, 120, note="it took 2 s"))
BROKEN = Result(
    "dies", "nothing lost", 8, 1, 10, 1.0, Score(1, 10, lost=1, contradictions=("m1 is lost",))
)
FAILED = Result("raises", "nothing lost", 9, 1, 10, failure="ValueError: no")
MISSING = Result("is rare", "nothing lost", 10, 1, 10, missing="there is no such store")
TABLE = Result(
    "planted", "found", 11, 1, 1, 1.0, Score(1, 1, table=(("bug", "said"), ("a bug", "a sentence")))
)
SECTION = Result("races", "nothing lost", 12, 1, 1, 1.0, Score(1, 1, section="## A race\n\nWon.\n"))
ALL = [HELD, BROKEN, FAILED, MISSING, TABLE, SECTION]


def test_results_are_read_as_they_were_written(tmp_path: Path):
    save(ALL, tmp_path / "new" / "results.json", about="a short run")
    assert load(tmp_path / "new" / "results.json") == (ALL, "a short run")


def test_only_what_was_run_and_has_no_contradiction_holds():
    assert [result.name for result in ALL if result.holds] == ["hangs", "planted", "races"]


def test_the_page_says_what_came_out_and_how_to_repeat_it():
    text = page(ALL, about="a short run")
    assert "| hangs | recovers | 3 | 120 | 0 | 0 | 0 | 0 | 2 | 7 | holds |" in text
    assert "| dies | nothing lost | 1 | 10 | 1 | 0 | 0 | 0 | 1 | 8 | BROKEN |" in text
    assert "- hangs: it took 2 s" in text
    assert "- dies: m1 is lost" in text
    assert "- raises: failed with seed 9: ValueError: no" in text
    assert "- is rare: not run; there is no such store" in text
    assert "| a bug | a sentence |" in text
    assert "## A race\n\nWon." in text
    assert "a short run" in text
    assert "{{" not in text
