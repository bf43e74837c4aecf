"""The network of our own goes wrong as it is told to, and only then."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.stores import eventually
from tests.torture.proxy import Proxy, Way

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncGenerator[Proxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(echo, tmp_path / "echo")
    async with Proxy(tmp_path / "proxy", tmp_path / "echo") as proxy:
        yield proxy
    server.close()


@pytest.fixture
async def ends(proxy: Proxy, tmp_path: Path) -> AsyncGenerator[Ends]:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "proxy")
    yield reader, writer
    writer.close()


async def test_bytes_come_back_as_they_went(ends: Ends):
    ends[1].write(b"hello")
    assert await ends[0].readexactly(5) == b"hello"


async def test_each_chunk_is_announced_before_and_after_it_passes(proxy: Proxy, ends: Ends):
    seen: list[tuple[Way, bool]] = []
    proxy.watch = lambda way, arrived: seen.append((way, arrived))
    ends[1].write(b"hello")
    await ends[0].readexactly(5)
    await eventually(lambda: len(seen) == 4)
    assert set(seen) == {(way, arrived) for way in Way for arrived in (False, True)}
    assert seen[0] == (Way.THERE, False)


@pytest.mark.parametrize("way", list(Way))
async def test_what_is_held_up_arrives_when_the_way_is_open_again(
    proxy: Proxy, ends: Ends, way: Way
):
    proxy.block(way)
    ends[1].write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ends[0].readexactly(5), 0.05)
    proxy.unblock()
    assert await ends[0].readexactly(5) == b"hello"


async def test_a_reset_loses_what_is_held_up(proxy: Proxy, ends: Ends):
    held = asyncio.Event()
    proxy.watch = lambda way, _: held.set() if way is Way.BACK else None
    proxy.block(Way.BACK)
    ends[1].write(b"hello")
    await held.wait()
    proxy.reset()
    proxy.unblock()
    assert await _rest(ends[0]) == b""


async def test_a_cut_lets_a_part_through(proxy: Proxy, ends: Ends):
    proxy.cut_after(3, Way.BACK)
    ends[1].write(b"hello")
    assert await _rest(ends[0]) == b"hel"


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All until the connection ends, one way or the other."""
    found = b""
    try:
        while data := await reader.read(1000):
            found += data
    except ConnectionError:
        pass
    return found
