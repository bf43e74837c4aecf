"""The engine: whatever has consequences for timers, credits or other servers goes through it."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    BatchState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.engine.clock import StoreClock
from tidegate_server.engine.dispatcher import Dispatcher
from tidegate_server.engine.events import Events
from tidegate_server.engine.lateness import Lateness
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.recoverer import Recoverer
from tidegate_server.engine.reel import Tail
from tidegate_server.engine.scheduler import Scheduler
from tidegate_server.engine.superseded import Supersession
from tidegate_server.engine.tasks import Tasks
from tidegate_server.errors import (
    Draining,
    LeaseLost,
    NotFound,
    StoreUnavailable,
    Superseded,
    TidegateError,
)
from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Closing, Subscriber, Subscribers
from tidegate_server.store.base import (
    Added,
    AddResult,
    Changed,
    Erased,
    Extended,
    Flushed,
    Held,
    Requeued,
    Settled,
    Store,
)
from tidegate_server.store.signals import Notice, NoticeKind, mark_of

log = get_logger("tidegate.engine")


class Engine:
    """Delivers what the store holds to the subscribers of this server, on time and once.

    `lease_ms` is the length of an extension for leases of other servers; a batch that is formed
    more than `late_after_ms` after its window's end is reported. Without `events` those who watch
    see nothing of this server. Read `store` directly; what changes it has a method here.
    `on_store` is told whether the store answers, when that changes. All in one event loop.
    """

    def __init__(
        self,
        store: Store,
        *,
        metrics: Metrics,
        lease_ms: int = 30_000,
        late_after_ms: int = 30_000,
        max_subscribers: int = 1_000,
        sweep_ms: int = 1_000,
        events: bool = True,
    ):
        self.store = store
        self.clock = StoreClock()
        self.subscribers = Subscribers(limit=max_subscribers)
        self.drain_begun = asyncio.Event()
        self.on_store: Callable[[bool], None] = lambda _: None
        self._metrics = metrics
        self._lease_ms = lease_ms
        self._tasks = Tasks()
        self._outage = Outage()
        self._events = Events(store, tasks=self._tasks, enabled=events)
        self._supersession = Supersession(
            store,
            subscribers=self.subscribers,
            tasks=self._tasks,
            outage=self._outage,
            metrics=metrics,
        )
        self._dispatcher = Dispatcher(
            self.clock,
            self.subscribers,
            metrics=metrics,
            lateness=Lateness(metrics, late_after_ms=late_after_ms),
            delivered=self._delivered,
            release=self._release,
            over=self._over,
        )
        self._scheduler = Scheduler(
            store,
            self.clock,
            subscribers=self.subscribers,
            tasks=self._tasks,
            outage=self._outage,
            deliver=self._dispatcher.deliver,
        )
        self._recoverer = Recoverer(
            store,
            self.clock,
            outage=self._outage,
            metrics=metrics,
            recovered=self._recovered,
            survey=self._scheduler.survey,
            busy=lambda: bool(self.subscribers or len(self._dispatcher)),
            sweep_ms=sweep_ms,
        )
        self.subscribers.on_room = self._scheduler.wake
        self._outage.on_change = self._store_changed

    @property
    def draining(self) -> bool:
        """The server is shutting down."""
        return self.drain_begun.is_set()

    async def start(self) -> None:
        """Listen to the other servers and begin to sweep."""
        self.store.listen(self._heard)
        self._tasks.forever("sweep", self._recoverer.sweep_forever)
        self._tasks.forever("reconcile", self._recoverer.reconcile_forever)

    async def drain(self, timeout_s: float) -> None:
        """Claim no more, have all streams close and give back what no subscriber took.

        Returns when all of them have ended, or after `timeout_s`. Settling works until `stop`.
        """
        self.drain_begun.set()
        self._events.close()
        closes_at_ms = self.clock.now_ms() + round(timeout_s * 1_000)
        closing = Closing("the server is shutting down", closes_at_ms)
        self._release(self.subscribers.drain(closing))
        self._scheduler.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self._tasks.join()
                await self.subscribers.gone()
                await self._tasks.join()
        except TimeoutError:
            log.warning("drain took too long", subscribers=len(self.subscribers))

    async def stop(self) -> None:
        """End all timers and tasks. What is leased stays leased."""
        self.drain_begun.set()
        self._events.stop()
        self._scheduler.stop()
        self._dispatcher.stop()
        await self._tasks.stop()

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """As the store does; what becomes due is claimed at that moment."""
        sent_ms = self.clock.local_ms()
        results = await self.store.add(messages)
        pairs = zip(messages, results, strict=True)
        taken = [(message, added) for message, added in pairs if isinstance(added, Added)]
        if taken:
            self.clock.observe(taken[-1][1].at_ms, sent_ms)
        for conversation, due_ms in {m.conversation: added.due_ms for m, added in taken}.items():
            self._due(conversation, due_ms)
        self._supersession.added(taken)
        self._events.added(taken)
        return results

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the store does."""
        flushed = await self.store.flush(conversation)
        self._due(conversation, flushed.due_ms)
        return flushed

    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """As the store does."""
        held = await self.store.hold(conversation, hold_ms)
        self._due(conversation, held.due_ms)
        return held

    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """As the store does."""
        changed = await self.store.amend(
            conversation, message_id, body=body, payload_bytes=payload_bytes
        )
        self._due(conversation, changed.due_ms)
        return changed

    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """As the store does."""
        changed = await self.store.remove(conversation, message_id)
        self._due(conversation, changed.due_ms)
        return changed

    async def discard(self, conversation: Conversation) -> int:
        """As the store does. The timer goes off for nothing."""
        return await self.store.discard(conversation)

    async def requeue(self, batch_id: str) -> Requeued:
        """As the store does; what is due again is claimed at once."""
        requeued = await self.store.requeue(batch_id)
        if requeued.conversation:
            self._due(requeued.conversation, requeued.due_ms)
        return requeued

    async def delete(self, batch_id: str) -> bool:
        """As the store does."""
        return await self.store.delete(batch_id)

    async def erase(self, conversation: Conversation) -> Erased:
        """As the store does; a subscriber that holds a batch of it has its credit back."""
        erased = await self.store.erase(conversation)
        if erased.batch_id and not self._dispatcher.forget(erased.batch_id):
            self._tell(Notice(NoticeKind.SETTLED, conversation, erased.batch_id))
        return erased

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the store does, but for the one answer that is a refusal.

        Raises:
            Superseded: `only_if_current`, and newer messages wait; all of them are one buffer now.
        """
        with self._settling(batch_id, token):
            settled = await self.store.ack(batch_id, token, only_if_current=only_if_current)
        self._settled(settled, token)
        if settled.state is BatchState.REBUFFERED:
            self._metrics.rebuffered += not settled.already
            raise Superseded("newer messages arrived in the conversation; all will come again")
        self._metrics.acked += not settled.already
        return settled

    async def nack(
        self,
        batch_id: str,
        token: str,
        action: NackAction,
        *,
        retry_delay_ms: int = 0,
        reason: str = "NACKED",
        message: str = "",
    ) -> Settled:
        """As the store does."""
        with self._settling(batch_id, token):
            settled = await self.store.nack(
                batch_id,
                token,
                action,
                retry_delay_ms=retry_delay_ms,
                reason=reason,
                message=message,
            )
        self._settled(settled, token)
        if not settled.already:
            self._count_nack(action, settled.state)
        return settled

    async def extend(self, batch_id: str, token: str, lease_ms: int | None = None) -> Extended:
        """As the store does; None: as long as the lease was at first, or the server's default."""
        lease = self._dispatcher.lease(batch_id, token)
        if lease_ms is None:
            lease_ms = lease.length_ms if lease else self._lease_ms
        with self._settling(batch_id, token):
            extended = await self.store.extend(batch_id, token, lease_ms)
        until_ms = extended.lease_expires_at_ms
        if not self._dispatcher.extended(batch_id, until_ms):
            self._tell(Notice(NoticeKind.EXTENDED, extended.conversation, batch_id, until_ms))
        return extended

    def subscribe(
        self,
        subscriber_id: str,
        *,
        instances: frozenset[str],
        max_in_flight: int,
        lease_ms: int,
        channel: DeliveryChannel,
    ) -> Subscriber:
        """A new subscriber, and a look at what waits for it. No `instances` means all.

        Raises:
            Draining: The server is shutting down.
            TooManySubscribers: It has as many as it may have.
        """
        if self.draining:
            raise Draining
        subscriber = self.subscribers.open(
            subscriber_id,
            instances=instances,
            max_in_flight=max_in_flight,
            lease_ms=lease_ms,
            channel=channel,
        )
        self._metrics.subscribers = len(self.subscribers)
        self._scheduler.opened(subscriber)
        if len(self.subscribers) == 1 or (not instances and self.subscribers.listeners(None) == 1):
            self._recoverer.look()
        return subscriber

    async def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a subscriber and release what it never took; what it took stays leased."""
        untaken = self.subscribers.close(subscriber)
        self._metrics.subscribers = len(self.subscribers)
        if releases := self._release(untaken):
            await asyncio.wait(releases)

    def watch(self, instance: str | None) -> Tail:
        """What happens from now on at every server, of one instance or of all.

        Raises:
            Draining: The server is shutting down.
            TooManySubscribers: Together with the subscribers it has as many as it may have.
        """
        self.subscribers.admit()
        tail = self._events.watch(instance)
        self.subscribers.guests = len(self._events)
        return tail

    def unwatch(self, tail: Tail) -> None:
        """Collect no more events for it."""
        self._events.unwatch(tail)
        self.subscribers.guests = len(self._events)

    @contextmanager
    def _settling(self, batch_id: str, token: str) -> Generator[None]:
        """Free the credit if the store says that the lease of this token is over."""
        try:
            yield
        except (LeaseLost, NotFound):
            self._dispatcher.ended(batch_id, token)
            raise

    def _settled(self, settled: Settled, token: str) -> None:
        """Free the credit, here or at the server that holds it, and come again when it is due."""
        batch_id, conversation = settled.batch_id, settled.conversation
        lease = self._dispatcher.ended(batch_id, token)
        if not settled.already:
            if lease is None:
                mark = mark_of(token)
                self._tell(Notice(NoticeKind.SETTLED, conversation, batch_id, mark=mark))
            self._events.settled(settled, lease.info if lease else None)
        self._due(conversation, settled.due_ms)

    def _due(self, conversation: Conversation, due_ms: int | None) -> None:
        if due_ms is not None:
            self._scheduler.schedule(conversation, due_ms)

    def _delivered(self, info: BatchInfo, at_ms: int) -> None:
        self._supersession.delivered(info.conversation, info.batch_id)
        self._events.delivered(info, at_ms)

    def _release(self, batches: Sequence[Batch]) -> list[asyncio.Task[None]]:
        return [self._tasks.spawn(self._give_back(batch)) for batch in batches]

    async def _give_back(self, batch: Batch) -> None:
        try:
            await self.nack(batch.info.batch_id, batch.token, NackAction.RELEASE)
        except StoreUnavailable as error:
            self._outage.lost(error)
        except TidegateError:
            pass  # Its lease was over before.

    def _over(self, conversations: Sequence[Conversation]) -> None:
        self._tasks.spawn(self._recoverer.recover(conversations))

    def _recovered(self, settled: Settled) -> None:
        self._dispatcher.taken_back(settled.batch_id, settled.at_ms)
        self._events.expired(settled)
        self._due(settled.conversation, settled.due_ms)

    def _heard(self, notice: Notice) -> None:
        match notice.kind:
            case NoticeKind.DUE:
                self._scheduler.heard(notice)
            case NoticeKind.SETTLED:
                self._dispatcher.settled_elsewhere(notice.batch_id, notice.mark)
            case NoticeKind.EXTENDED:
                self._dispatcher.extended(notice.batch_id, notice.at_ms)
            case NoticeKind.SUPERSEDED:
                self._supersession.heard(notice)
            case NoticeKind.WATCHING:
                self._events.heard(notice)

    def _tell(self, notice: Notice) -> None:
        self._tasks.spawn(self.store.tell([notice]))

    def _store_changed(self) -> None:
        self.on_store(not self._outage.away)
        if self._outage.away:
            self._recoverer.look()
        else:
            self._scheduler.resume()

    def _count_nack(self, action: NackAction, state: BatchState) -> None:
        self._metrics.dead_lettered += state is BatchState.DEAD_LETTERED
        self._metrics.rebuffered += state is BatchState.REBUFFERED
        if state is BatchState.RETRY_SCHEDULED:
            self._metrics.retried += action is NackAction.RETRY
            self._metrics.released += action is NackAction.RELEASE
