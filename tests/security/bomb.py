"""A gRPC call made of bytes: a little that becomes a lot."""

import asyncio
import struct
import zlib
from pathlib import Path

GIB = 1 << 30
_DATA, _HEADERS, _RESET, _SETTINGS, _GOING_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_FRAME, _WINDOW, _INITIAL_WINDOW = 16_384, 65_535, 4


def zeros(size: int) -> bytes:
    """`size` zeros as gzip: about a thousandth of it. Made of one piece, again and again."""
    piece = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    count, checksum = size // len(piece), 0
    for _ in range(count):
        checksum = zlib.crc32(piece, checksum)
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return head + packed * count + b"\x03\x00" + struct.pack("<II", checksum, size & 0xFFFF_FFFF)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    )


def _header(name: str, value: str) -> bytes:
    """A header in HPACK, in the plainest of its forms."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class RawCall:
    """One call over a connection of its own, without a library that would keep the rules."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._room = {0: _WINDOW, 1: _WINDOW}
        self._news = asyncio.Event()

    @classmethod
    async def open(cls, target: str) -> "RawCall":
        if target.startswith("unix:"):
            streams = await asyncio.open_unix_connection(target.removeprefix("unix:"))
        else:
            host, _, port = target.rpartition(":")
            streams = await asyncio.open_connection(host, int(port))
        call = cls(*streams)
        call._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        return call

    async def send(self, path: str, message: bytes, *, compressed: bool, **headers: str) -> bytes:
        """Send one message, as far as the server lets it; all that came back until it ended."""
        pairs = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        pairs |= {"te": "trailers", "content-type": "application/grpc"}
        pairs |= {name.replace("_", "-"): value for name, value in headers.items()}
        block = b"".join(_header(name, value) for name, value in pairs.items())
        self._writer.write(_frame(_HEADERS, _END_HEADERS, 1, block))
        body = struct.pack(">?I", compressed, len(message)) + message
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write(body))
        try:
            return await reading
        finally:
            writing.cancel()
            self._writer.close()

    async def _write(self, body: bytes) -> None:
        for start in range(0, len(body), _FRAME):
            piece = body[start : start + _FRAME]
            while min(self._room.values()) < len(piece):
                self._news.clear()
                await self._news.wait()
            for stream in self._room:
                self._room[stream] -= len(piece)
            last = start + _FRAME >= len(body)
            self._writer.write(_frame(_DATA, _END_STREAM if last else 0, 1, piece))
            await self._writer.drain()

    async def _read(self) -> bytes:
        """The headers and data that came back."""
        answer = b""
        while True:
            try:
                head = await self._reader.readexactly(9)
                body = await self._reader.readexactly(int.from_bytes(head[:3]))
            except (asyncio.IncompleteReadError, ConnectionError):
                return answer
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            if kind == _WINDOW_UPDATE:
                self._give_room(stream, int.from_bytes(body))
            elif kind == _SETTINGS and not flags & _ACK:
                self._heed(body)
            elif kind in (_HEADERS, _DATA, _RESET, _GOING_AWAY):
                answer += body
                if kind in (_RESET, _GOING_AWAY) or flags & _END_STREAM:
                    return answer

    def _heed(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", settings):
            if name == _INITIAL_WINDOW:
                self._give_room(1, value - _WINDOW)
        self._writer.write(_frame(_SETTINGS, _ACK, 0, b""))

    def _give_room(self, stream: int, size: int) -> None:
        self._room[stream] += size
        self._news.set()


def memory(pid: int, what: str = "VmHWM") -> int:
    """Bytes of memory of a process: the most it had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise AssertionError(what)
