"""When to claim what: a conversation that is due, for a subscriber that has room.

Without room nothing is claimed, so no lease runs: the conversation waits in its instance's line,
or just in the store. What the lines do not know, a listing of the store brings.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable

from tidegate_server.core.model import Batch, Conversation
from tidegate_server.engine.backlog import Backlog
from tidegate_server.engine.clock import StoreClocks
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.tasks import Tasks
from tidegate_server.engine.wakeup import ClockedTimers
from tidegate_server.errors import StoreDamaged, StoreUnavailable
from tidegate_server.logs import get_logger
from tidegate_server.sinks.stream import Subscriber, Subscribers
from tidegate_server.store.base import Claimed, Due, Horizon, Store
from tidegate_server.store.signals import Notice, NoticeKind

_CLAIMS_AT_ONCE = 512
_LINE = 4_096
_LISTED = 500
_LISTINGS = 64
_SOON_MS = 2_000
"""A listing also takes what will be due by then: until the next one has come round."""

log = get_logger("tidegate.engine")


class Scheduler:
    """Claims what is due and gives it to `deliver`, with the subscriber it was claimed for."""

    def __init__(
        self,
        store: Store,
        clocks: StoreClocks,
        *,
        subscribers: Subscribers,
        tasks: Tasks,
        outage: Outage,
        deliver: Callable[[Batch, Subscriber], None],
    ):
        self._store = store
        self._clocks = clocks
        self._subscribers = subscribers
        self._tasks = tasks
        self._outage = outage
        self._deliver = deliver
        self._timers = ClockedTimers[Conversation](clocks, self._due)
        self._backlog = Backlog(limit=_LINE)
        self._turns: OrderedDict[str | Subscriber, None] = OrderedDict()
        self._claiming: set[Conversation] = set()
        self._partial: set[str] = set()
        self._listing: set[str] = set()
        self._listings = asyncio.Semaphore(_LISTINGS)
        self._pumping: asyncio.Handle | None = None

    def schedule(self, conversation: Conversation, due_ms: int) -> None:
        """Claim the conversation at `due_ms`; the newest word counts."""
        self._timers.of(conversation).set(conversation, due_ms)

    def heard(self, notice: Notice) -> None:
        """Another server has nobody for a conversation that is due."""
        if self._subscribers.listens(notice.conversation.instance):
            self.schedule(notice.conversation, notice.at_ms)

    def opened(self, subscriber: Subscriber) -> None:
        """Look for work for a new subscriber; nobody listened for it before."""
        for instance in subscriber.instances:
            if self._subscribers.listeners(instance) == 1:
                self._partial.add(instance)
        self.wake(subscriber)

    def wake(self, subscriber: Subscriber) -> None:
        """The subscriber has room."""
        if self._backlog or self._partial:
            self._turns[subscriber] = None
            self.resume()

    def resume(self) -> None:
        """Go on claiming, if anything held it up."""
        if self._turns and self._pumping is None:
            self._pumping = asyncio.get_running_loop().call_soon(self._pump)

    def survey(self, horizon: Horizon) -> None:
        """List what the lines do not know: some instances with something due, some in turn."""
        self._forget()
        names = dict.fromkeys([*horizon.instances, *self._subscribers.rotate(_LISTINGS)])
        wanted = [i for i in names if i not in self._backlog and self._subscribers.room(i)]
        self._list(wanted[:_LISTINGS])

    def drain(self) -> None:
        """Claim no more, and let other servers have what waits here."""
        waiting = [c for instance in list(self._backlog) for c in self._backlog.drop(instance)]
        self._turns.clear()
        self._due([(self._clocks.of(chat).now_ms(), chat) for chat in waiting])

    def stop(self) -> None:
        """Let no timer go off any more."""
        self._timers.stop()
        self._turns.clear()

    def _due(self, due: list[tuple[int, Conversation]]) -> None:
        """Timers went off: into the line, or to the servers that have somebody for it."""
        unheard: list[Notice] = []
        for due_ms, conversation in due:
            instance = conversation.instance
            if not self._subscribers.listens(instance):
                unheard.append(Notice(NoticeKind.DUE, conversation, at_ms=due_ms))
                continue
            if not self._backlog.add(conversation):
                self._partial.add(instance)
            self._turns[instance] = None
        if unheard:
            self._tasks.spawn(self._store.tell(unheard))
        self.resume()

    def _pump(self) -> None:
        """Begin the claims that are possible now. What is left in turn waits for `resume`."""
        self._pumping = None
        try:
            while self._turns and len(self._claiming) < _CLAIMS_AT_ONCE and not self._outage.away:
                who, _ = self._turns.popitem(last=False)
                if found := self._match(who):
                    self._turns[who] = None
                    conversation, subscriber = found
                    self._claiming.add(conversation)
                    self._tasks.spawn(self._claim(conversation, subscriber))
        except Exception:
            log.exception("claiming failed")

    def _match(self, who: str | Subscriber) -> tuple[Conversation, Subscriber] | None:
        """The next conversation for an instance's or a subscriber's turn, its credit reserved."""
        if isinstance(who, Subscriber):
            subscriber = who if who.room > 0 else None
        else:
            subscriber = self._subscribers.pick(who)
        if subscriber is None:
            return None
        conversation = self._backlog.take(subscriber.instances)
        if conversation is None:
            self._list(self._partial & (subscriber.instances or self._partial))
            return None
        self._subscribers.reserve(subscriber)
        return conversation, subscriber

    async def _claim(self, conversation: Conversation, subscriber: Subscriber) -> None:
        try:
            claimed = await self._ask(conversation, subscriber)
        except StoreDamaged:
            self._subscribers.free(subscriber)
            log.error("a conversation cannot be claimed: its keys in the store are damaged")
            return
        except BaseException:
            self._subscribers.free(subscriber)
            raise
        finally:
            self._claiming.discard(conversation)
            self.resume()
        if claimed and claimed.batch:
            self._deliver(claimed.batch, subscriber)
            return
        self._subscribers.free(subscriber)
        if claimed and claimed.due_ms is not None:
            self.schedule(conversation, claimed.due_ms)

    async def _ask(self, conversation: Conversation, subscriber: Subscriber) -> Claimed | None:
        """Claim until there is an answer: always with one token, since it may have been lost.

        None: its part of the store is away. When that is back, the sweep finds the conversation.
        """
        token, clock = secrets.token_hex(16), self._clocks.of(conversation)
        pause_s, sent = 0.0, False
        while True:
            sent_ms = clock.local_ms()
            try:
                claimed = await self._store.claim(
                    conversation,
                    token=token,
                    lease_ms=subscriber.lease_ms,
                    subscriber_id=subscriber.subscriber_id,
                    channel=subscriber.channel,
                )
            except StoreDamaged:
                raise
            except StoreUnavailable as error:
                self._outage.lost(error)
                sent = sent or error.maybe_done
                if not sent and not self._outage.away:
                    return None
                await asyncio.sleep(pause_s)
                await self._outage.over()
                pause_s = min(1.0, 2 * pause_s + 0.1)
            else:
                clock.observe(claimed.at_ms, sent_ms)
                return claimed

    def _list(self, instances: Iterable[str]) -> None:
        wanted = [i for i in instances if i not in self._listing]
        self._partial.difference_update(wanted)
        self._listing.update(wanted)
        for instance in wanted:
            self._tasks.spawn(self._look(instance))

    async def _look(self, instance: str) -> None:
        """Set the timers of what the store has of an instance."""
        try:
            async with self._listings:
                found = await self._store.due(instance, limit=_LISTED)
        except StoreUnavailable as error:
            self._partial.add(instance)
            self._outage.lost(error)
            return
        finally:
            self._listing.discard(instance)
        for due in found:
            if self._soon(due) and due.conversation not in self._claiming:
                self.schedule(due.conversation, due.due_ms)
        if len(found) >= _LISTED and self._soon(found[-1]):
            self._partial.add(instance)

    def _soon(self, due: Due) -> bool:
        return due.due_ms <= self._clocks.of(due.conversation).now_ms() + _SOON_MS

    def _forget(self) -> None:
        """Nobody listens any more: the store keeps it, and whoever comes will look."""
        for instance in [i for i in self._backlog if not self._subscribers.listens(i)]:
            self._backlog.drop(instance)
        self._partial = {i for i in self._partial if self._subscribers.listens(i)}
