"""Tells the stream that holds a batch that newer messages arrived in its conversation."""

from collections.abc import Sequence

from tidegate_server.core.model import AddOutcome, BufferInfo, Conversation, NewMessage
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.tasks import Tasks
from tidegate_server.errors import StoreUnavailable
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscribers, Superseded
from tidegate_server.store.base import Added, Store
from tidegate_server.store.signals import Notice, NoticeKind

_KNOWN = 10_000


class Supersession:
    """Once for each delivery, whichever server took the newer message, and when.

    Every server remembers the newest batches that it knows to be superseded: it tells the others
    of each once, and a delivery that begins later, such as a retry, has its hint at once.
    """

    def __init__(
        self,
        store: Store,
        *,
        subscribers: Subscribers,
        tasks: Tasks,
        outage: Outage,
        metrics: Metrics,
    ):
        self._store = store
        self._subscribers = subscribers
        self._tasks = tasks
        self._outage = outage
        self._metrics = metrics
        self._known: dict[str, None] = {}

    def added(self, taken: Sequence[tuple[NewMessage, Added]]) -> None:
        """Messages were taken here, some of them perhaps behind a batch."""
        newer: dict[str, tuple[Conversation, BufferInfo | None]] = {}
        for message, added in taken:
            # A duplicate without a buffer is a message of the batch itself, or of one before.
            waits = added.outcome is AddOutcome.BUFFERED or added.buffer
            if added.in_flight and waits and added.in_flight not in self._known:
                newer[added.in_flight] = message.conversation, added.buffer
        for batch_id, (conversation, buffer) in newer.items():
            self._remember(batch_id)
            if not self._subscribers.holds(batch_id):
                notice = Notice(NoticeKind.SUPERSEDED, conversation, batch_id)
                self._tasks.spawn(self._store.tell([notice]))
            elif buffer:
                self._tell(Superseded(batch_id, conversation, buffer))
            else:
                self._tasks.spawn(self._look(conversation, batch_id))

    def heard(self, notice: Notice) -> None:
        """Another server took newer messages."""
        if notice.batch_id not in self._known:
            self._remember(notice.batch_id)
            self.delivered(notice.conversation, notice.batch_id)

    def delivered(self, conversation: Conversation, batch_id: str) -> None:
        """Have the stream told that holds the batch, if it is known to be superseded."""
        if batch_id in self._known and self._subscribers.holds(batch_id):
            self._tasks.spawn(self._look(conversation, batch_id))

    async def _look(self, conversation: Conversation, batch_id: str) -> None:
        """Tell of a batch what has gathered behind it, if that is still so."""
        try:
            status = await self._store.status(conversation)
        except StoreUnavailable as error:
            self._outage.lost(error)
            return
        current = status.current_batch
        if status.buffer and current and current.batch_id == batch_id:
            self._tell(Superseded(batch_id, conversation, status.buffer))

    def _tell(self, superseded: Superseded) -> None:
        self._metrics.superseded += self._subscribers.tell(superseded)

    def _remember(self, batch_id: str) -> None:
        self._known[batch_id] = None
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
