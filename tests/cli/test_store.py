"""`tidegate store move`, as an operator calls it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import run
from tests.support.servers import Server, refusal
from tests.support.stores import StoreProcess
from tidegate import Client, WindowPolicy

LONG = WindowPolicy(delay=timedelta(hours=1))


@pytest.fixture
async def stores() -> AsyncIterator[tuple[StoreProcess, StoreProcess]]:
    async with StoreProcess(tcp=True) as one, StoreProcess(tcp=True) as other:
        yield one, other


async def test_an_embedded_store_moves_and_its_server_follows(
    tmp_path: Path, stores: tuple[StoreProcess, StoreProcess]
):
    new, other = stores
    ends = ("--from-data-dir", str(tmp_path / "data"), "--to", new.url)
    async with Server(tmp_path) as server, Client(server.target) as gate:
        await gate.add("bot", "ann", "hello", policy=LONG)
    moved = await asyncio.to_thread(run, "store", "move", *ends, "--to-partitions", "64")
    assert moved.code == 0, moved.err
    assert moved.lines[0] == f"✓ moved to {new.url} (prefix 'tg'), 64 partitions"
    assert "messages in them 1" in " ".join(moved.out.split())

    code, said = await refusal(Server(tmp_path))
    assert code == 1
    assert f"have moved to {new.url}" in said
    async with Server(tmp_path, store_url=new.url) as server, Client(server.target) as gate:
        assert (await gate.flush("bot", "ann")).flushed
        (batch,) = await gate.pull("bot", wait=timedelta(seconds=10))
        assert [m.text for m in batch.messages] == ["hello"]
        refused = await asyncio.to_thread(
            run, "store", "move", "--from", new.url, "--to", other.url
        )
        assert (refused.code, refused.out) == (1, "")
        assert "1 of Tidegate's servers use" in refused.err
        await batch.ack()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "redis://localhost"), "missing option '--to'"),
        (("--to", "redis://localhost"), "--from or --from-data-dir"),
        (("--from", "nonsense", "--to", "redis://localhost"), "--from must be redis://"),
        (("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:1"), "one of the stores"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(arguments: tuple[str, ...], said: str):
    ended = run("store", "move", *arguments)
    assert ended.code in (1, 2)
    assert said in ended.err
