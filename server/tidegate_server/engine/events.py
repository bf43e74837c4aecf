"""The live tail: what happens to messages and batches, for those who watch."""

import asyncio
from collections.abc import Sequence
from itertools import islice

from tidegate_server.core.model import (
    AddOutcome,
    BatchInfo,
    BatchState,
    Conversation,
    NewMessage,
)
from tidegate_server.engine.reel import Pace, Reel, Tail
from tidegate_server.engine.tasks import Tasks
from tidegate_server.store.base import Added, Settled, Store
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind

PUBLISHED_AT_ONCE = 200
ANNOUNCE_S, FORGET_S = 2.0, 5.0

OUTCOMES = {
    BatchState.COMPLETED: EventKind.BATCH_COMPLETED,
    BatchState.RETRY_SCHEDULED: EventKind.BATCH_RETRY_SCHEDULED,
    BatchState.DEAD_LETTERED: EventKind.BATCH_DEAD_LETTERED,
    BatchState.REBUFFERED: EventKind.BATCH_REBUFFERED,
}


class Events:
    """Brings events to those who watch, here and at other servers.

    A watching server says so every `ANNOUNCE_S`; the others publish for it, until they have not
    heard of it for `FORGET_S`. What nobody watches costs one look at two empty dicts. Publishing
    has one message under way: with a slow store events are dropped, and nothing waits. A server
    that is not `enabled` has no events of its own.
    """

    def __init__(self, store: Store, *, tasks: Tasks, enabled: bool):
        self._store = store
        self._tasks = tasks
        self._enabled = enabled
        self._reels: dict[str, Reel] = {}
        self._watchers: dict[Tail, str] = {}
        self._elsewhere: dict[str, float] = {}
        self._pace = Pace()
        self._outgoing = Reel()
        self._sent = Tail(self._outgoing)
        self._publishing = False
        self._renewal: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._watchers)

    def watch(self, instance: str | None) -> Tail:
        """The events from now on, of one instance or of all. To be given to `unwatch`."""
        name = instance or ""
        reel = self._reels.setdefault(name, Reel())
        tail = Tail(reel, self._pace)
        reel.readers += 1
        self._watchers[tail] = name
        if len(self._watchers) == 1:
            self._store.watch(self._show)
        self._announce()
        return tail

    def unwatch(self, tail: Tail) -> None:
        """Collect no more events for it."""
        name = self._watchers.pop(tail, None)
        if name is not None and (reel := self._reels.get(name)):
            reel.readers -= 1
            if not reel.readers:
                del self._reels[name]
        if not self._watchers:
            self._store.watch(None)

    def close(self) -> None:
        """Let all watchers come to an end."""
        for reel in self._reels.values():
            reel.close()

    def stop(self) -> None:
        """Announce nothing any more."""
        self.close()
        self._watchers.clear()
        self._reels.clear()
        self._store.watch(None)
        if self._renewal:
            self._renewal.cancel()

    def heard(self, notice: Notice) -> None:
        """Somebody watches at another server."""
        self._elsewhere[notice.conversation.instance] = _now() + FORGET_S

    def watched(self, conversation: Conversation) -> bool:
        """Whether an event of the conversation would be seen."""
        if not self._enabled or not (self._reels or self._elsewhere):
            return False
        here = "" in self._reels or conversation.instance in self._reels
        return here or self._watched_elsewhere(conversation)

    def added(self, taken: Sequence[tuple[NewMessage, Added]]) -> None:
        """Messages were taken, or had been before."""
        if not self._enabled or not (self._reels or self._elsewhere):
            return
        for message, added in taken:
            if self.watched(message.conversation):
                duplicate = added.outcome is AddOutcome.DUPLICATE
                kind = EventKind.MESSAGE_DUPLICATE if duplicate else EventKind.MESSAGE_ADDED
                buffer = None if duplicate else added.buffer
                where, at_ms = message.conversation, added.at_ms
                self._emit(LiveEvent(kind, where, at_ms, message_id=message.id, buffer=buffer))

    def delivered(self, info: BatchInfo, at_ms: int) -> None:
        """A batch was handed out."""
        if self.watched(info.conversation):
            where, kind = info.conversation, EventKind.BATCH_DELIVERED
            self._emit(LiveEvent(kind, where, at_ms, batch_id=info.batch_id, batch=info))

    def settled(self, settled: Settled, info: BatchInfo | None = None) -> None:
        """A batch came to another state; `info` is what was known of it at its delivery."""
        self._of(OUTCOMES[settled.state], settled, info)

    def expired(self, settled: Settled) -> None:
        """A lease ran out, the last one perhaps."""
        self._of(EventKind.LEASE_EXPIRED, settled, None)
        if settled.state is BatchState.DEAD_LETTERED:
            self._of(EventKind.BATCH_DEAD_LETTERED, settled, None)

    def _of(self, kind: EventKind, settled: Settled, info: BatchInfo | None) -> None:
        if self.watched(settled.conversation):
            self._emit(
                LiveEvent(
                    kind,
                    settled.conversation,
                    settled.at_ms,
                    batch_id=settled.batch_id,
                    state=settled.state,
                    next_attempt_at_ms=settled.next_attempt_at_ms,
                    batch=info,
                )
            )

    def _emit(self, event: LiveEvent) -> None:
        self._show(event)
        if self._watched_elsewhere(event.conversation):
            self._outgoing.append(event)
            if not self._publishing:
                self._publishing = True
                self._tasks.spawn(self._publish())

    def _show(self, event: LiveEvent) -> None:
        for name in ("", event.conversation.instance):
            if reel := self._reels.get(name):
                reel.append(event)

    def _watched_elsewhere(self, conversation: Conversation) -> bool:
        if not self._elsewhere:
            return False
        now = _now()
        for instance in [i for i, until in self._elsewhere.items() if until < now]:
            del self._elsewhere[instance]
        return "" in self._elsewhere or conversation.instance in self._elsewhere

    def _announce(self) -> None:
        """Say what is watched here, and say it again in a while."""
        if self._renewal:
            self._renewal.cancel()
            self._renewal = None
        if self._watchers:
            self._tasks.spawn(self._store.tell([_watching(name) for name in sorted(self._reels)]))
            self._renewal = asyncio.get_running_loop().call_later(ANNOUNCE_S, self._announce)

    async def _publish(self) -> None:
        try:
            while events := self._next_outgoing():
                await self._store.publish(events)
        finally:
            self._publishing = False

    def _next_outgoing(self) -> list[LiveEvent]:
        return list(islice(iter(self._sent.take, None), PUBLISHED_AT_ONCE))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _watching(instance: str) -> Notice:
    return Notice(NoticeKind.WATCHING, Conversation(instance, ""))
