"""What time it is at the store, as far as its answers show."""

import math
import time
from collections.abc import Callable, Iterator

from tidegate_server.core.model import Conversation
from tidegate_server.store.base import Horizon, Store

_WINDOW_MS = 5_000
_SET_BACK_MS = 1_000


class StoreClock:
    """A cautious estimate of the store's clock: never ahead of it, and seldom far behind.

    Each answer names a moment before it arrived, so the clocks differ by at least its time less
    ours. The quickest answer of the last seconds says most; slow ones say less and change nothing.

    `on_set_back` is called when the store's clock was set back by more than a second, or another
    machine's took its place.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic):
        self.on_set_back: Callable[[], None] = lambda: None
        self._monotonic = monotonic
        self._newest: float | None = None
        self._older = -math.inf
        self._since = 0.0

    def local_ms(self) -> float:
        """The clock of this process, to be taken before a call and given to `observe` after it."""
        return self._monotonic() * 1_000

    def observe(self, at_ms: int, sent_ms: float) -> None:
        """Learn from an answer: the store said `at_ms` to a call that began at `sent_ms`."""
        now = self.local_ms()
        least, most = at_ms - now, at_ms + 1 - sent_ms
        if self._newest is None or self._offset > most:
            # The first answer, or the store's clock was set back.
            back_ms = 0 if self._newest is None else self._offset - most
            self._newest, self._older, self._since = least, -math.inf, now
            if back_ms > _SET_BACK_MS:
                self.on_set_back()
        elif now - self._since > _WINDOW_MS:
            self._newest, self._older, self._since = least, self._newest, now
        elif least > self._newest:
            self._newest = least

    def now_ms(self) -> int:
        """The store's time, or a little less."""
        return math.floor(self.local_ms() + self._offset)

    def wait_s(self, until_ms: int) -> float:
        """Seconds until the store's clock has surely reached `until_ms`, in whole milliseconds."""
        return max(0, math.ceil(until_ms - self.local_ms() - self._offset)) / 1_000

    @property
    def _offset(self) -> float:
        if self._newest is None:
            return (time.time() - self._monotonic()) * 1_000
        return max(self._newest, self._older)


class StoreClocks:
    """A clock for each partition of the store: they may be on nodes whose clocks differ."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic):
        self._partition_of = store.partition_of
        self._clocks = [StoreClock(monotonic) for _ in range(store.partitions)]

    def __iter__(self) -> Iterator[StoreClock]:
        return iter(self._clocks)

    @property
    def first(self) -> StoreClock:
        """For what concerns no conversation."""
        return self._clocks[0]

    def of(self, conversation: Conversation) -> StoreClock:
        """The clock that the times of the conversation are of."""
        return self._clocks[self._partition_of(conversation)]

    def saw(self, horizon: Horizon, sent_ms: float) -> None:
        """Learn from a look at all partitions that began at `sent_ms`."""
        for number, at_ms in horizon.clocks or ((0, horizon.at_ms),):
            self._clocks[number].observe(at_ms, sent_ms)
