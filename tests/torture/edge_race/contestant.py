"""What takes part in the race: something that gathers messages and hands them on when it is time.

The times of all are those of the system that Tidegate replaces, in the same ratio: a window of 8 s
is one of 200 ms here, a lock of 2 s is one of 50 ms.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import BlockingConnectionPool, Redis

SCALE = 1 / 40
WINDOW_S = 8 * SCALE

Deliver = Callable[[str, Sequence[str]], None]
"""Gets a conversation and the messages of a batch of it, in their order."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an add. `due_s`: when the window ends, by the clock of the machine."""

    acknowledged: bool
    due_s: float | None = None
    sequence: int = 0
    new: bool = True


class Contestant(Protocol):
    """One process's part of a system that buffers."""

    def deliver(self, callback: Deliver) -> None:
        """Have what this process hands on given to `callback`."""
        ...

    async def add(self, conversation: str, message: str) -> Reply:
        """Hand a message in."""
        ...

    def end_life(self) -> None:
        """The process ends after its answers, as a serverless function does, and a new one begins.

        What it kept in memory for later is gone.
        """
        ...

    async def close(self) -> None:
        """Wait until all that this process keeps in memory is done."""
        ...


def milliseconds(seconds: float) -> int:
    """A time of the replaced system, scaled, as the store's commands take it."""
    return max(1, round(seconds * SCALE * 1000))


class Timers:
    """The `setTimeout` of a process: gone with it, if it has not gone off."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.TimerHandle] = set()
        self._running: set[asyncio.Task[None]] = set()

    def start(self, delay_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the work later, unless the process ends before."""

        def go_off() -> None:
            self._waiting.discard(handle)
            task = asyncio.create_task(work())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        handle = asyncio.get_running_loop().call_later(delay_s, go_off)
        self._waiting.add(handle)

    def drop(self) -> None:
        """Forget what has not gone off. What has begun is done to its end."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

    async def done(self) -> None:
        """Wait for all."""
        while self._waiting or self._running:
            if self._running:
                await asyncio.gather(*self._running)
            await asyncio.sleep(WINDOW_S / 10)


class Stand:
    """What the stand-ins share: a few connections to the store, timers, and whom to deliver to."""

    name = ""

    def __init__(self, store_url: str):
        pool = BlockingConnectionPool.from_url(store_url, max_connections=8, timeout=None)
        self._store = Redis(connection_pool=pool)
        self._pool = pool
        self._timers = Timers()
        self._deliver: Deliver = lambda _conversation, _messages: None

    def deliver(self, callback: Deliver) -> None:
        """Have what this process hands on given to `callback`."""
        self._deliver = callback

    def end_life(self) -> None:
        """Forget the timers."""
        self._timers.drop()

    async def close(self) -> None:
        """Wait for the timers."""
        await self._timers.done()
        await self._pool.disconnect()

    def _key(self, kind: str, conversation: str) -> str:
        return f"{self.name}:{kind}:{conversation}"

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._store.execute_command(*command)
