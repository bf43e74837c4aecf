"""The engine: whatever has consequences for timers, credits or other servers goes through it."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from tidegate_server.core.model import (
    Batch,
    BatchState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.engine.clock import StoreClock
from tidegate_server.engine.dispatcher import Dispatcher
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.recoverer import Recoverer
from tidegate_server.engine.scheduler import Scheduler
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
    Extended,
    Flushed,
    Notice,
    NoticeKind,
    Settled,
    Store,
)

log = get_logger("tidegate.engine")


class Engine:
    """Delivers what the store holds to the subscribers of this server, on time and once.

    `lease_ms` is the length of an extension for leases of other servers. Read `store` directly;
    what changes it has a method here. `on_store` is told whether the store answers, when that
    changes. All in one event loop.
    """

    def __init__(
        self,
        store: Store,
        *,
        metrics: Metrics,
        lease_ms: int = 30_000,
        max_subscribers: int = 1_000,
        sweep_ms: int = 1_000,
    ):
        self.store = store
        self.clock = StoreClock()
        self.subscribers = Subscribers(limit=max_subscribers)
        self.draining = False
        self.on_store: Callable[[bool], None] = lambda _: None
        self._metrics = metrics
        self._lease_ms = lease_ms
        self._tasks = Tasks()
        self._outage = Outage()
        self._dispatcher = Dispatcher(
            self.clock, self.subscribers, metrics=metrics, release=self._release, over=self._over
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

    async def start(self) -> None:
        """Listen to the other servers and begin to sweep."""
        self.store.listen(self._heard)
        self._tasks.forever("sweep", self._recoverer.sweep_forever)
        self._tasks.forever("reconcile", self._recoverer.reconcile_forever)

    async def drain(self, timeout_s: float) -> None:
        """Claim no more, have all streams close and give back what no subscriber took.

        Returns when all of them have ended, or after `timeout_s`. Settling works until `stop`.
        """
        self.draining = True
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
        self.draining = True
        self._scheduler.stop()
        self._dispatcher.stop()
        await self._tasks.stop()

    async def add(self, messages: Sequence[NewMessage]) -> list[Added]:
        """As the store does; what becomes due is claimed at that moment."""
        sent_ms = self.clock.local_ms()
        answers = await self.store.add(messages)
        if answers:
            self.clock.observe(answers[-1].at_ms, sent_ms)
        for message, added in zip(messages, answers, strict=True):
            if added.due_ms is not None:
                self._scheduler.schedule(message.conversation, added.due_ms)
        return answers

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the store does."""
        flushed = await self.store.flush(conversation)
        if flushed.due_ms is not None:
            self._scheduler.schedule(conversation, flushed.due_ms)
        return flushed

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the store does, but for the one answer that is a refusal.

        Raises:
            Superseded: `only_if_current`, and newer messages wait; all of them are one buffer now.
        """
        with self._settling(batch_id, token):
            settled = await self.store.ack(batch_id, token, only_if_current=only_if_current)
        self._settled(settled, token)
        if settled.state is BatchState.REBUFFERED:
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
            self._tell(NoticeKind.EXTENDED, extended.conversation, batch_id, at_ms=until_ms)
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
        if not self._dispatcher.ended(settled.batch_id, token) and not settled.already:
            self._tell(NoticeKind.SETTLED, settled.conversation, settled.batch_id)
        if settled.due_ms is not None:
            self._scheduler.schedule(settled.conversation, settled.due_ms)

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
        self._dispatcher.ended(settled.batch_id)
        if settled.due_ms is not None:
            self._scheduler.schedule(settled.conversation, settled.due_ms)

    def _heard(self, notice: Notice) -> None:
        if notice.kind is NoticeKind.DUE:
            self._scheduler.heard(notice)
        elif notice.kind is NoticeKind.SETTLED:
            self._dispatcher.ended(notice.batch_id)
        else:
            self._dispatcher.extended(notice.batch_id, notice.at_ms)

    def _tell(
        self, kind: NoticeKind, conversation: Conversation, batch_id: str, *, at_ms: int = 0
    ) -> None:
        notice = Notice(kind, conversation, batch_id, at_ms)
        self._tasks.spawn(self.store.tell([notice]))

    def _store_changed(self) -> None:
        self.on_store(not self._outage.away)
        if self._outage.away:
            self._recoverer.look()
        else:
            self._scheduler.resume()

    def _count_nack(self, action: NackAction, state: BatchState) -> None:
        self._metrics.dead_lettered += state is BatchState.DEAD_LETTERED
        if state is BatchState.RETRY_SCHEDULED:
            self._metrics.retried += action is NackAction.RETRY
            self._metrics.released += action is NackAction.RELEASE
