"""Hands claimed batches to subscribers, and keeps watch over their leases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate_server.core.model import Batch, BatchInfo, Conversation
from tidegate_server.engine.clock import StoreClocks
from tidegate_server.engine.lateness import Lateness
from tidegate_server.engine.wakeup import ClockedTimers
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber, Subscribers
from tidegate_server.store.signals import mark_of

_MARGIN_MS = 2


@dataclass(slots=True)
class Lease:
    """A lease that this server took for one of its subscribers."""

    info: BatchInfo
    token: str
    length_ms: int
    until_ms: int


class Dispatcher:
    """Every batch that is claimed here goes through `deliver` and ends with `ended`, or is `over`.

    `delivered` is told of each that was handed out, `release` takes those that nobody here can
    have, `over` the conversations whose lease ran out.
    """

    def __init__(
        self,
        clocks: StoreClocks,
        subscribers: Subscribers,
        *,
        metrics: Metrics,
        lateness: Lateness,
        delivered: Callable[[BatchInfo, int], None],
        release: Callable[[Sequence[Batch]], object],
        over: Callable[[Sequence[Conversation]], None],
    ):
        self._clocks = clocks
        self._subscribers = subscribers
        self._metrics = metrics
        self._lateness = lateness
        self._delivered = delivered
        self._release = release
        self._over = over
        self._leases: dict[str, Lease] = {}
        self._ends = ClockedTimers[str](clocks, self._expire)

    def __len__(self) -> int:
        return len(self._leases)

    def deliver(self, batch: Batch, subscriber: Subscriber) -> None:
        """Give a batch to the subscriber it was claimed for, else to another one, else back."""
        info, length_ms, until_ms = batch.info, subscriber.lease_ms, batch.lease_expires_at_ms
        if self._clocks.of(info.conversation).now_ms() >= until_ms:
            # The answer was so long under way that the batch may be settled, and the next one out.
            self._subscribers.free(subscriber)
            self._over([info.conversation])
            return
        self._leases[info.batch_id] = Lease(info, batch.token, length_ms, until_ms)
        self._ends.of(info.conversation).set(info.batch_id, until_ms + _MARGIN_MS)
        if not self._hand(batch, subscriber):
            self._release([batch])
            return
        self._metrics.delivered += 1
        if info.attempt == 1:
            self._lateness.observe(info.sealed_at_ms - info.due_at_ms)
        self._delivered(info, until_ms - length_ms)

    def lease(self, batch_id: str, token: str) -> Lease | None:
        """The lease, if this server took it with this token and it is not over."""
        lease = self._leases.get(batch_id)
        return lease if lease and lease.token == token else None

    def ended(self, batch_id: str, token: str) -> Lease | None:
        """The lease of this token is no more: free its credit. None: it was not taken here."""
        lease = self.lease(batch_id, token)
        return self.forget(batch_id) if lease else None

    def settled_elsewhere(self, batch_id: str, mark: str) -> None:
        """As `ended`, for the lease whose token has the mark; none: for any."""
        lease = self._leases.get(batch_id)
        if lease and mark in ("", mark_of(lease.token)):
            self.forget(batch_id)

    def taken_back(self, batch_id: str, at_ms: int) -> None:
        """The store took the batch back at `at_ms`. A lease that lasts longer was taken since."""
        lease = self._leases.get(batch_id)
        if lease and lease.until_ms <= at_ms:
            self.forget(batch_id)

    def forget(self, batch_id: str) -> Lease | None:
        """The batch needs no lease any more, whoever took it. None: it was not leased here."""
        lease = self._leases.pop(batch_id, None)
        if lease:
            self._ends.of(lease.info.conversation).discard(batch_id)
            self._subscribers.settled(batch_id)
        return lease

    def extended(self, batch_id: str, until_ms: int) -> bool:
        """The lease ends at `until_ms` now. False: it was not taken here."""
        lease = self._leases.get(batch_id)
        if lease is None:
            return False
        lease.until_ms = until_ms
        self._ends.of(lease.info.conversation).set(batch_id, until_ms + _MARGIN_MS)
        return True

    def stop(self) -> None:
        """Watch no lease any more."""
        self._ends.stop()

    def _hand(self, batch: Batch, subscriber: Subscriber) -> bool:
        if self._subscribers.hand(subscriber, batch):
            return True
        other = self._subscribers.pick(batch.info.conversation.instance)
        if other is None:
            return False
        self._subscribers.reserve(other)
        return self._subscribers.hand(other, batch)

    def _expire(self, ends: list[tuple[int, str]]) -> None:
        over: list[Conversation] = []
        for _, batch_id in ends:
            over.append(self._leases.pop(batch_id).info.conversation)
            self._subscribers.settled(batch_id)
        self._over(over)
