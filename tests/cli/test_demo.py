import signal
from pathlib import Path

from tests.cli.conftest import run, running
from tests.support.stores import alive

BATCH = "▶ one batch of"


def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    # What is meant for a server does not count, nor does a store of its owner's.
    told = run("demo", TMPDIR=str(tmp_path), TIDEGATE_STORE_URL="redis://nowhere:1")

    assert (told.code, told.err) == (0, "")
    assert "\x1b" not in told.out
    assert [line.partition(BATCH)[2] for line in told.lines if BATCH in line] == [
        *(" 2", " 2"),
        *(" 1", " 2"),  # the second thought: the whole turn once more
        *(" 1", " 1, attempt 2"),
    ]
    assert len([line for line in told.lines if "drops its reply" in line]) == 1
    assert "✓ every message was answered exactly once, in order" in told.lines
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with running("demo", TMPDIR=str(tmp_path)) as process:
        assert process.stdout
        while BATCH not in process.stdout.readline():
            pass
        (folder,) = tmp_path.iterdir()
        store = int((folder / "data" / "store.lock").read_text())
        process.send_signal(signal.SIGINT)

        assert process.communicate()[1] == ""
    assert process.returncode == 130
    assert not alive(store)
    assert list(tmp_path.iterdir()) == []
