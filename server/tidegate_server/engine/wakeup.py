"""Timers that run on the store's clock: a heap, and one alarm for the earliest of them."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tidegate_server.core.model import Conversation
from tidegate_server.engine.clock import StoreClock, StoreClocks
from tidegate_server.logs import get_logger

K = TypeVar("K", bound=Hashable)

_LONGEST_SLEEP_S = 1.0
"""The estimate of the store's clock may improve meanwhile, or the clock jump."""
_AT_ONCE = 1_000
"""Timers that go off in one turn of the loop, so that a crowd of them does not hold it up."""
_SPARE = 256

log = get_logger("tidegate.engine")


class Timers(Generic[K]):
    """Calls `fire` with the (time, key) pairs that are due, earliest first.

    A key has one timer; setting it again moves it. Moving one later, as each message of a sliding
    window does, costs no new entry of the heap: the old one finds the new time when it comes up.
    """

    def __init__(self, clock: StoreClock, fire: Callable[[list[tuple[int, K]]], None]):
        self._clock = clock
        self._fire = fire
        self._times: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._order = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._stopped = False

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: K, at_ms: int) -> None:
        """Have `key` go off at `at_ms` of the store's clock, whatever was set before."""
        if self._stopped:
            return
        before = self._times.get(key)
        self._times[key] = at_ms
        if before is None or at_ms < before:
            heapq.heappush(self._heap, (at_ms, next(self._order), key))
            self._compact()
            if self._alarm is None or at_ms < self._alarm_ms:
                self._arm()

    def discard(self, key: K) -> None:
        """Take the timer of `key` away, if there is one."""
        if self._times.pop(key, None) is not None:
            self._compact()

    def stop(self) -> None:
        """Let none go off any more."""
        self._stopped = True
        self._times.clear()
        self._heap.clear()
        self._disarm()

    def _ring(self) -> None:
        self._alarm = None
        due = self._pop(self._clock.now_ms())
        self._arm()
        if due:
            try:
                self._fire(due)
            except Exception:
                log.exception("timer failed")

    def _pop(self, now_ms: int) -> list[tuple[int, K]]:
        due: list[tuple[int, K]] = []
        while self._heap and self._heap[0][0] <= now_ms and len(due) < _AT_ONCE:
            _, _, key = heapq.heappop(self._heap)
            at_ms = self._times.get(key)
            if at_ms is None:
                continue
            if at_ms > now_ms:
                heapq.heappush(self._heap, (at_ms, next(self._order), key))
                continue
            del self._times[key]
            due.append((at_ms, key))
        return due

    def _arm(self) -> None:
        self._disarm()
        if not self._heap:
            return
        self._alarm_ms = self._heap[0][0]
        wait_s = min(self._clock.wait_s(self._alarm_ms), _LONGEST_SLEEP_S)
        self._alarm = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _disarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def _compact(self) -> None:
        """Build the heap anew when most of it are entries that were moved or taken away."""
        if len(self._heap) > 2 * len(self._times) + _SPARE:
            self._heap = [(at_ms, next(self._order), key) for key, at_ms in self._times.items()]
            heapq.heapify(self._heap)


class ClockedTimers(Generic[K]):
    """Timers of things that belong to conversations, each on its conversation's clock."""

    def __init__(self, clocks: StoreClocks, fire: Callable[[list[tuple[int, K]]], None]):
        self._clocks = clocks
        self._timers = {clock: Timers[K](clock, fire) for clock in clocks}

    def of(self, conversation: Conversation) -> Timers[K]:
        """The timers on the conversation's clock."""
        return self._timers[self._clocks.of(conversation)]

    def stop(self) -> None:
        """Let none go off any more."""
        for timers in self._timers.values():
            timers.stop()
