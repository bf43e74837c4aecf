"""How writers tell each other where a window ends, and that they have shot at it."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

Help = Callable[[str, float, Callable[[], None]], None]
"""Gets a conversation, the end of its window, and what to call when the shots are answered."""


class Post(asyncio.DatagramProtocol):
    """One writer's letter box, a socket in the directory."""

    def __init__(self, directory: Path, index: int, writers: int, help_with: Help):
        self._paths = [str(directory / f"{n}.sock") for n in range(writers)]
        self._index = index
        self._help = help_with
        self._missing: dict[str, int] = {}
        self._helped: dict[str, asyncio.Future[None]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """From now on others are helped."""
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=self._paths[self._index], family=socket.AF_UNIX
        )

    def close(self) -> None:
        """Hear nothing more."""
        if self._transport:
            self._transport.close()

    def ask(self, name: str, due_s: float) -> asyncio.Future[None]:
        """Tell the others to shoot; done when all of them have their answers."""
        others = [n for n in range(len(self._paths)) if n != self._index]
        helped = asyncio.get_running_loop().create_future()
        self._missing[name], self._helped[name] = len(others), helped
        for other in others:
            self._send(other, [name, due_s])
        if not others:
            helped.set_result(None)
        return helped

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Another writer asks, or answers."""
        sender, name, due_s = json.loads(data)
        if due_s is not None:
            self._help(name, due_s, lambda: self._send(sender, [name, None]))
            return
        self._missing[name] -= 1
        if not self._missing[name]:
            self._helped.pop(name).set_result(None)

    def _send(self, to: int, letter: list[object]) -> None:
        assert self._transport
        self._transport.sendto(json.dumps([self._index, *letter]).encode(), self._paths[to])  # pyright: ignore[reportArgumentType]  # the address of a unix socket is its path
