"""The live tail: what happens to messages and batches, for those who watch."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from tidegate_server.core.model import (
    AddOutcome,
    BatchInfo,
    BatchState,
    Conversation,
    NewMessage,
)
from tidegate_server.engine.tasks import Tasks
from tidegate_server.store.base import Added, Settled, Store
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind

LONGEST_QUEUE = 1_000
PUBLISHED_AT_ONCE = 200
ANNOUNCE_S, FORGET_S = 2.0, 5.0

OUTCOMES = {
    BatchState.COMPLETED: EventKind.BATCH_COMPLETED,
    BatchState.RETRY_SCHEDULED: EventKind.BATCH_RETRY_SCHEDULED,
    BatchState.DEAD_LETTERED: EventKind.BATCH_DEAD_LETTERED,
    BatchState.REBUFFERED: EventKind.BATCH_REBUFFERED,
}


class Tail:
    """The newest events, at most `LONGEST_QUEUE`: the oldest are dropped, and counted."""

    def __init__(self, instance: str = ""):
        self.instance = instance
        self._events: deque[LiveEvent] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._ended = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: LiveEvent) -> None:
        """Append an event."""
        if len(self._events) >= LONGEST_QUEUE:
            self._dropped += 1 + self._events.popleft().dropped
        self._events.append(event)
        self._news.set()

    def take(self) -> LiveEvent:
        """The oldest event, with the number of those dropped before it."""
        event = self._events.popleft()
        if self._dropped:
            event, self._dropped = replace(event, dropped=event.dropped + self._dropped), 0
        return event

    async def next(self) -> LiveEvent | None:
        """The oldest event, as soon as there is one. None: no more will come."""
        while not self._events and not self._ended:
            self._news.clear()
            await self._news.wait()
        return self.take() if self._events else None

    def end(self) -> None:
        """Let `next` answer None when the events are used up."""
        self._ended = True
        self._news.set()


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
        self._watchers: dict[Tail, None] = {}
        self._elsewhere: dict[str, float] = {}
        self._outgoing = Tail()
        self._publishing = False
        self._renewal: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._watchers)

    def watch(self, instance: str | None) -> Tail:
        """The events from now on, of one instance or of all. To be given to `unwatch`."""
        tail = Tail(instance or "")
        self._watchers[tail] = None
        if len(self._watchers) == 1:
            self._store.watch(self._show)
        self._announce()
        return tail

    def unwatch(self, tail: Tail) -> None:
        """Collect no more events for it."""
        self._watchers.pop(tail, None)
        if not self._watchers:
            self._store.watch(None)

    def close(self) -> None:
        """Let all watchers come to an end."""
        for tail in self._watchers:
            tail.end()

    def stop(self) -> None:
        """Announce nothing any more."""
        self.close()
        self._watchers.clear()
        self._store.watch(None)
        if self._renewal:
            self._renewal.cancel()

    def heard(self, notice: Notice) -> None:
        """Somebody watches at another server."""
        self._elsewhere[notice.conversation.instance] = _now() + FORGET_S

    def watched(self, conversation: Conversation) -> bool:
        """Whether an event of the conversation would be seen."""
        if not self._enabled or not (self._watchers or self._elsewhere):
            return False
        return self._watched_elsewhere(conversation) or any(
            _shows(tail, conversation) for tail in self._watchers
        )

    def added(self, messages: Sequence[NewMessage], answers: Sequence[Added]) -> None:
        """Messages were taken, or had been before."""
        if not self._enabled or not (self._watchers or self._elsewhere):
            return
        for message, added in zip(messages, answers, strict=True):
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
            self._outgoing.put(event)
            if not self._publishing:
                self._publishing = True
                self._tasks.spawn(self._publish())

    def _show(self, event: LiveEvent) -> None:
        for tail in self._watchers:
            if _shows(tail, event.conversation):
                tail.put(event)

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
            instances = {tail.instance for tail in self._watchers}
            self._tasks.spawn(self._store.tell([_watching(i) for i in sorted(instances)]))
            self._renewal = asyncio.get_running_loop().call_later(ANNOUNCE_S, self._announce)

    async def _publish(self) -> None:
        try:
            while self._outgoing:
                count = min(len(self._outgoing), PUBLISHED_AT_ONCE)
                await self._store.publish([self._outgoing.take() for _ in range(count)])
        finally:
            self._publishing = False


def _now() -> float:
    return asyncio.get_running_loop().time()


def _shows(tail: Tail, conversation: Conversation) -> bool:
    return tail.instance in ("", conversation.instance)


def _watching(instance: str) -> Notice:
    return Notice(NoticeKind.WATCHING, Conversation(instance, ""))
