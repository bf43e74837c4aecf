import asyncio
import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import run, running
from tests.support.servers import Server
from tests.support.stores import alive

QUICK = ("--speed", "20", "--json")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """About 50 s of four people who write in bursts, to two bots."""
    dice, at_s, lines = random.Random(7), 0.0, list[dict[str, Any]]()
    for number in range(120):
        at_s += dice.choice((0.1, 0.3, 0.9))
        who = dice.randrange(4)
        lines.append(
            {
                "t": at_s,
                "instance": f"bot-{who % 2}",
                "conversation": f"person {who}",
                "message_id": f"m{number}",
                "text": f"text {number} …",
            }
        )
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def verdict(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


def broken(found: dict[str, Any]) -> dict[str, int]:
    return {name: c["failures"] for name, c in found["checks"].items() if c["failures"]}


def test_a_trace_is_replayed_against_a_server_of_its_own(tmp_path: Path, trace: Path) -> None:
    (tmp_path / "tmp").mkdir()
    ended = run("replay", str(trace), "--speed", "40", TMPDIR=str(tmp_path / "tmp"))

    assert ended.code == 0
    assert "messages in         120" in ended.lines
    assert len([line for line in ended.lines if line.startswith("✓ ")]) == 7
    assert "against a server of its own; windows of 200 ms, grace 50 ms" in ended.err
    assert "100 %  120 of 120 messages in" in ended.err
    assert "\x1b" not in ended.out + ended.err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_stores_files_can_be_kept_and_a_trace_played_again(tmp_path: Path, trace: Path) -> None:
    for _ in range(2):
        kept = ("--data-dir", str(tmp_path / "data"))
        ended = run("replay", str(trace), "--speed", "120", "--mode", "sliding", *kept, "--json")
        assert verdict(ended.out)["holds"], ended.err
    assert (tmp_path / "data" / "appendonlydir").is_dir()


async def until(process: "subprocess.Popen[str]", percent: int) -> None:
    """Until it says that this much has come out."""
    assert process.stderr
    while True:
        said = await asyncio.to_thread(process.stderr.readline)
        assert said, "it has ended"
        if "%" in said and int(said.partition("%")[0]) >= percent:
            return


async def test_it_survives_the_death_of_the_server_and_of_its_store(
    tmp_path: Path, trace: Path
) -> None:
    async with Server(tmp_path / "server") as server:
        with running("replay", str(trace), *QUICK, "-s", server.target) as process:
            await until(process, 20)
            await server.kill()
            await server.start()
            await until(process, 60)
            os.kill(server.store_pid(), signal.SIGKILL)
            out, err = await asyncio.to_thread(process.communicate)

    found = verdict(out)
    assert process.returncode == 0, (found, err)
    assert (found["messages_in"], broken(found)) == (120, {})


async def test_what_a_server_keeps_for_itself_is_named(tmp_path: Path, trace: Path) -> None:
    async with Server(tmp_path / "server") as server:
        quick = (*QUICK, "--patience", "1s")
        with running("replay", str(trace), *quick, "-s", server.target) as process:
            await until(process, 20)
            await server.kill()
            out, err = await asyncio.to_thread(process.communicate)

    found = verdict(out)
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith("of 7 did not hold")
    assert "every message was acknowledged" in broken(found)
    assert len(found["checks"]["every message was acknowledged"]["examples"]) == 5
    assert "each batch is what the window's rules give" not in broken(found)


async def test_batches_of_others_are_not_taken(tmp_path: Path, trace: Path) -> None:
    async with Server(tmp_path / "server") as server:
        sent = ("send", "bot-1", "somebody", "hi", "--flush", "-s", server.target)
        assert (await asyncio.to_thread(run, *sent)).code == 0
        replayed = ("replay", str(trace), *QUICK, "-s", server.target)
        ended = await asyncio.to_thread(run, *replayed)

    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(
        "tidegate: batches of other conversations wait in bot-1; take them first"
    )


async def test_a_replay_that_is_told_to_stop_leaves_nothing(tmp_path: Path, trace: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    with running("replay", str(trace), *QUICK, TMPDIR=str(folder)) as process:
        await until(process, 10)
        (own,) = folder.iterdir()
        store = int((own / "data" / "store.lock").read_text())
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.to_thread(process.communicate)

    assert (process.returncode, out) == (143, "")
    assert "Traceback" not in err
    assert not alive(store)
    assert list(folder.iterdir()) == []
