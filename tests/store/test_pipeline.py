"""Commands that a node refuses because it is not the one, or not yet."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection

from tidegate_server.errors import StoreUnavailable
from tidegate_server.metrics import Metrics
from tidegate_server.store.pipeline import Pipeline
from tidegate_server.store.scripts import ACK

REFUSALS = {
    "MOVED 3999 127.0.0.1:6381": "moved to another node",
    "ASK 3999 127.0.0.1:6381": "on their way to another node",
    "TRYAGAIN Multiple keys request during rehashing of slot": "on their way to another node",
    "CLUSTERDOWN The cluster is down": "cluster is down",
    "MASTERDOWN Link with MASTER is down": "primary is away",
    "READONLY You can't write against a read only replica.": "is a replica",
    "NOREPLICAS Not enough good replicas to write.": "fewer replicas than its min-replicas",
    "BUSY Redis is busy running a script.": "busy with somebody's script",
    "ERR Error running script (call to f_12ab): @user_script:9: @user_script: 9:"
    " -READONLY You can't write against a read only replica.": "is a replica",
}


class Node:
    """A node that answers each EVALSHA with what `answer` says, and everything else with OK."""

    def __init__(self, path: str, answer: Callable[[int], str | None]):
        self._path = path
        self._answer = answer
        self.calls: list[bytes] = []
        self.opened = 0

    async def open(self) -> AbstractConnection:
        self.opened += 1
        connection = UnixDomainSocketConnection(path=self._path, protocol=2, socket_timeout=None)
        await connection.connect()
        return connection

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words: list[bytes] = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                answer: str | None = "+OK"
                if words[0] == b"EVALSHA":
                    self.calls.append(words[-1])
                    answer = self._answer(len(self.calls))
                if answer is None:
                    break
                writer.write(f"{answer}\r\n".encode())
        finally:
            writer.close()


@asynccontextmanager
async def pipeline(
    directory: Path, answer: Callable[[int], str | None], *, timeout: float = 5
) -> AsyncGenerator[tuple[Pipeline, Node]]:
    """A pipeline to a node. None as an answer cuts the connection."""
    node = Node(str(directory / "node.sock"), answer)
    server = await asyncio.start_unix_server(node.serve, directory / "node.sock")
    line = Pipeline(node, timeout=timeout, counters=Metrics())
    line.start()
    try:
        yield line, node
    finally:
        await line.stop()
        server.close()
        await server.wait_closed()


def call(line: Pipeline, name: str) -> asyncio.Task[bytes]:
    return asyncio.create_task(line.call("EVALSHA", ACK.sha, 0, name))


@pytest.mark.parametrize("refusal", [*REFUSALS, "LOADING is loading the dataset in memory"])
async def test_what_is_refused_keeps_its_place_and_is_sent_again(tmp_path: Path, refusal: str):
    async with pipeline(tmp_path, lambda n: f"-{refusal}" if n <= 3 else "+done") as (line, node):
        calls = [call(line, name) for name in "abc"]
        assert await asyncio.gather(*calls) == [b"done"] * 3
        assert node.calls[-3:] == [b"a", b"b", b"c"]
        assert node.opened > 1
        assert line.away is None


@pytest.mark.parametrize(("refusal", "says"), REFUSALS.items())
async def test_what_is_refused_to_the_end_is_surely_not_done(
    tmp_path: Path, refusal: str, says: str
):
    async with pipeline(tmp_path, lambda _: f"-{refusal}", timeout=0.1) as (line, _):
        with pytest.raises(StoreUnavailable, match=says) as caught:
            await call(line, "a")
        assert not caught.value.maybe_done


async def test_what_was_sent_once_without_an_answer_may_be_done_whatever_came_later(
    tmp_path: Path,
):
    def answer(n: int) -> str | None:
        return None if n == 1 else "-NOREPLICAS Not enough good replicas to write."

    async with pipeline(tmp_path, answer, timeout=0.2) as (line, _):
        with pytest.raises(StoreUnavailable) as caught:
            await call(line, "a")
        assert caught.value.maybe_done


async def test_any_other_refusal_is_told_at_once(tmp_path: Path):
    async with pipeline(tmp_path, lambda _: "-ERR no") as (line, node):
        with pytest.raises(StoreUnavailable, match="refused a command: no"):
            await call(line, "a")
        assert len(node.calls) == 1
