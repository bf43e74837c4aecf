"""A stretch of network of our own, between two unix sockets, that goes wrong when it is told to."""

import asyncio
import contextlib
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Self

_CHUNK = 65536


class Way(Enum):
    """The direction in which bytes go."""

    THERE = "there"
    BACK = "back"


class Proxy:
    """Listens at `path` and connects each caller with `target`, which is a path, too.

    `latency_s` is asked for each chunk of bytes, `watch` is told of each before and after it is
    passed on.
    """

    def __init__(self, path: Path, target: Path):
        self._path, self._target = path, target
        self.latency_s: Callable[[], float] | None = None
        self.watch: Callable[[Way, bool], None] | None = None
        self.connections = 0
        self._open = {way: asyncio.Event() for way in Way}
        self._left: dict[Way, int] = {}
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where a store seems to be."""
        return f"unix://{self._path}"

    @property
    def address(self) -> str:
        """Where a server seems to be."""
        return f"unix:{self._path}"

    def block(self, way: Way) -> None:
        """From now on nothing arrives in this direction, and nobody is told."""
        self._open[way].clear()

    def unblock(self) -> None:
        """What was held up arrives."""
        for gate in self._open.values():
            gate.set()

    def cut_after(self, size: int, way: Way) -> None:
        """Let so many more bytes through in this direction, then break all connections."""
        self._left[way] = size

    def reset(self) -> None:
        """Break all connections. What is held up is lost."""
        self._left.clear()
        for link in list(self._links):
            link.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            ends = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), ends)
        self._links.add(link)
        try:
            await link.carry()
        finally:
            self._links.discard(link)
            link.abort()

    async def carry(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Bring a chunk to the other end, or hold it up, or break off in the middle of it."""
        if self.watch:
            self.watch(way, False)
        if self.latency_s:
            await asyncio.sleep(self.latency_s())
        await self._open[way].wait()
        left = self._left.get(way)
        if left is not None and len(data) >= left:
            writer.write(data[:left])
            self.reset()
            return
        if left is not None:
            self._left[way] = left - len(data)
        writer.write(data)
        await writer.drain()
        if self.watch:
            self.watch(way, True)

    async def __aenter__(self) -> Self:
        self.unblock()
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        self.unblock()
        self.reset()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection."""

    def __init__(self, proxy: Proxy, caller: _Ends, target: _Ends):
        self._proxy = proxy
        self._caller, self._target = caller, target

    async def carry(self) -> None:
        """Carry bytes both ways, until either end is closed."""
        pumps = {
            asyncio.create_task(self._pump(Way.THERE, self._caller[0], self._target[1])),
            asyncio.create_task(self._pump(Way.BACK, self._target[0], self._caller[1])),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._proxy.carry(way, data, writer)

    def abort(self) -> None:
        for _, writer in (self._caller, self._target):
            writer.transport.abort()
