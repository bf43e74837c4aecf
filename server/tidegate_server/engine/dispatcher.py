"""Hands claimed batches to subscribers, and keeps watch over their leases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate_server.core.model import Batch, Conversation
from tidegate_server.engine.clock import StoreClock
from tidegate_server.engine.wakeup import Timers
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber, Subscribers

_MARGIN_MS = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that this server took for one of its subscribers."""

    conversation: Conversation
    token: str
    length_ms: int


class Dispatcher:
    """Every batch that is claimed here goes through `deliver` and ends with `ended`, or is `over`.

    `release` takes batches that nobody here can have; `over` the conversations whose lease ran out.
    """

    def __init__(
        self,
        clock: StoreClock,
        subscribers: Subscribers,
        *,
        metrics: Metrics,
        release: Callable[[Sequence[Batch]], object],
        over: Callable[[Sequence[Conversation]], None],
    ):
        self._subscribers = subscribers
        self._metrics = metrics
        self._release = release
        self._over = over
        self._leases: dict[str, Lease] = {}
        self._ends = Timers[str](clock, self._expire)

    def __len__(self) -> int:
        return len(self._leases)

    def deliver(self, batch: Batch, subscriber: Subscriber) -> None:
        """Give a batch to the subscriber it was claimed for, else to another one, else back."""
        info = batch.info
        self._leases[info.batch_id] = Lease(info.conversation, batch.token, subscriber.lease_ms)
        self._ends.set(info.batch_id, batch.lease_expires_at_ms + _MARGIN_MS)
        if not self._hand(batch, subscriber):
            self._release([batch])
            return
        self._metrics.delivered += 1
        if info.attempt == 1:
            late_ms = info.sealed_at_ms - info.due_at_ms
            self._metrics.lateness_seconds.observe(late_ms / 1_000)

    def lease(self, batch_id: str, token: str) -> Lease | None:
        """The lease, if this server took it with this token and it is not over."""
        lease = self._leases.get(batch_id)
        return lease if lease and lease.token == token else None

    def ended(self, batch_id: str, token: str | None = None) -> bool:
        """The batch needs no lease any more: free its credit. False: it was not leased here.

        With a `token` a lease that was taken since is left alone.
        """
        lease = self._leases.get(batch_id)
        if lease is None or token not in (None, lease.token):
            return False
        del self._leases[batch_id]
        self._ends.discard(batch_id)
        self._subscribers.settled(batch_id)
        return True

    def extended(self, batch_id: str, until_ms: int) -> bool:
        """The lease ends at `until_ms` now. False: it was not taken here."""
        if batch_id not in self._leases:
            return False
        self._ends.set(batch_id, until_ms + _MARGIN_MS)
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
            over.append(self._leases.pop(batch_id).conversation)
            self._subscribers.settled(batch_id)
        self._over(over)
