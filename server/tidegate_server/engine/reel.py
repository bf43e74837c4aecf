"""The newest events once, however many watch: each reader has a place of its own on the reel."""

import asyncio
from collections import deque
from dataclasses import replace

from tidegate_server.store.signals import LiveEvent

LENGTH = 1_000
EVENTS_A_SECOND = 2_000


class Pace:
    """Gives all readers together so many turns a second: a crowd of them must not slow the work."""

    def __init__(self, turns_a_second: float = EVENTS_A_SECOND, *, burst: int = 200):
        self._turn_s = 1 / turns_a_second
        self._burst_s = burst * self._turn_s
        self._next_s = 0.0

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        now = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s, now - self._burst_s) + self._turn_s
        if self._next_s > now:
            await asyncio.sleep(self._next_s - now)


class Reel:
    """At most `LENGTH` events; the oldest make room. Appending costs the same for any readers.

    Each event is kept with its number and the count of all before it, those included that were
    lost on their way here.
    """

    def __init__(self) -> None:
        self.events: deque[tuple[int, int, LiveEvent]] = deque(maxlen=LENGTH)
        self.end = 0
        self.count = 0
        self.closed = False
        self.readers = 0
        self._news = asyncio.Event()

    def append(self, event: LiveEvent) -> None:
        """Add an event and wake those that wait for one."""
        self.events.append((self.end, self.count, event))
        self.end += 1
        self.count += 1 + event.dropped
        self._wake()

    def close(self) -> None:
        """Let the readers come to an end."""
        self.closed = True
        self._wake()

    async def news(self) -> None:
        """Wait until something is appended, or the reel is closed."""
        await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Tail:
    """A reader of a reel, from now on. A slow one finds how many it has missed."""

    def __init__(self, reel: Reel, pace: Pace | None = None):
        self._reel = reel
        self._pace = pace or Pace()
        self._place = reel.end
        self._count = reel.count

    def take(self) -> LiveEvent | None:
        """The next event, with the number of those missed before it; None if there is none yet."""
        reel = self._reel
        if self._place == reel.end:
            return None
        oldest = reel.events[0][0]
        _, before, event = reel.events[max(self._place - oldest, 0)]
        self._place = max(self._place, oldest) + 1
        missed, self._count = before - self._count, before + 1 + event.dropped
        return replace(event, dropped=event.dropped + missed) if missed else event

    async def next(self) -> LiveEvent | None:
        """The next event, as soon as there is one. None: no more will come."""
        while self._place == self._reel.end and not self._reel.closed:
            await self._reel.news()
        await self._pace.turn()
        return self.take()
