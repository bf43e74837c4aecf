"""The reference store: what the scripts do, said in Python on top of `core`.

For tests. Several servers share one store by `replica()`. It is not durable and not fast.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tidegate_server.core.delivery import NACK_EVENTS, Event, after
from tidegate_server.core.model import (
    AddOutcome,
    Batch,
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.core.retry import RetryPolicy, backoffs
from tidegate_server.errors import LeaseLost, NotFound
from tidegate_server.store.base import (
    Added,
    BatchDetails,
    Claimed,
    Due,
    Extended,
    Flushed,
    Horizon,
    Notice,
    Settled,
    Stats,
    Status,
    Store,
)
from tidegate_server.store.keys import cid_of
from tidegate_server.store.reference import Chat, Head, Seen, Verdict, World, stored


class MemoryStore(Store):
    """A store in this process's memory. `clock` answers milliseconds since 1970."""

    def __init__(
        self,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        retry: RetryPolicy | None = None,
        deduplication_ms: int = 3_600_000,
        retain_status_ms: int = 3_600_000,
        retain_processed_ms: int = 300_000,
        world: World | None = None,
    ):
        self._clock = clock
        self._retry = retry or RetryPolicy()
        self._deduplication_ms = deduplication_ms
        self._retain_status_ms = retain_status_ms
        self._retain_processed_ms = retain_processed_ms
        self._world = world or World()
        self._handlers: list[Callable[[Notice], None]] = []
        self._world.replicas.append(self._handlers)

    def replica(self) -> "MemoryStore":
        """The same store as another server sees it."""
        return MemoryStore(
            clock=self._clock,
            retry=self._retry,
            deduplication_ms=self._deduplication_ms,
            retain_status_ms=self._retain_status_ms,
            retain_processed_ms=self._retain_processed_ms,
            world=self._world,
        )

    async def tell(self, notices: Sequence[Notice]) -> None:
        """Call the handlers of all other replicas soon."""
        loop = asyncio.get_running_loop()
        for handlers in self._world.replicas:
            if handlers is not self._handlers:
                for handler in handlers:
                    for notice in notices:
                        loop.call_soon(handler, notice)

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """Have the handler called for what other replicas tell."""
        self._handlers.append(handler)

    async def add(self, messages: Sequence[NewMessage]) -> list[Added]:
        """As the base says."""
        first = self._world.sequence + 1
        self._world.sequence += len(messages)
        added: list[Added] = []
        for message in messages:
            added.append(self._add(message, first))
            first += added[-1].outcome is AddOutcome.BUFFERED
        return added

    def _add(self, message: NewMessage, sequence: int) -> Added:
        now = self._clock()
        chat = self._world.chat(message.conversation)
        seen = chat.seen.get(message.id)
        if seen is not None and now - seen.at_ms < self._deduplication_ms:
            seen.duplicates += 1
            waits = any(kept.sequence == seen.sequence for kept in chat.open_row)
            return Added(
                AddOutcome.DUPLICATE,
                seen.sequence,
                now,
                buffer=self._buffer(chat, now) if waits else None,
                due_ms=chat.opens_ms if waits else None,
                in_flight=chat.batch_id,
            )
        chat.seen[message.id] = Seen(sequence, now)
        created = chat.take(stored(message, sequence, now), message.policy, now)
        return Added(
            AddOutcome.BUFFERED,
            sequence,
            now,
            buffer_created=created,
            buffer=self._buffer(chat, now),
            due_ms=chat.opens_ms,
            in_flight=chat.batch_id,
        )

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        """As the base says."""
        now = self._clock()
        chat = self._world.chat(conversation)
        head = chat.head
        if head and head.token == token and head.lease_ms is not None:
            return Claimed(self._batch(chat, head), None, now)
        due_ms = chat.claimable_ms
        if due_ms is None or due_ms > now:
            return Claimed(None, due_ms, now)
        if head is None:
            self._world.fence += 1
            head = chat.seal(f"0-{self._world.fence}-{now}", now)
        head.begin(token, now, lease_ms, channel, subscriber_id)
        return Claimed(self._batch(chat, head), None, now)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the base says."""
        now = self._clock()
        verdict = Verdict(token, "current" if only_if_current else "ack")
        chat, head, before = self._find(batch_id, verdict, now)
        superseded = only_if_current and chat.open_row
        return before or self._end(
            chat, head, Event.REBUFFER if superseded else Event.ACK, verdict, now
        )

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
        """As the base says."""
        now = self._clock()
        verdict = Verdict(token, action.name)
        chat, head, before = self._find(batch_id, verdict, now)
        if before:
            return before
        if action is NackAction.RELEASE:
            return self._again(chat, head, Event.RELEASE, verdict, now, due_ms=now)
        if action is NackAction.RETRY:
            waits = backoffs(self._retry)
            head.nacks += 1
            head.fail(now, reason, message)
            if head.nacks <= len(waits):
                due_ms = now + max(retry_delay_ms, waits[head.nacks - 1])
                return self._again(chat, head, Event.RETRY, verdict, now, due_ms=due_ms)
            return self._end(chat, head, Event.GIVE_UP, verdict, now)
        head.fail(now, reason, message)
        return self._end(chat, head, NACK_EVENTS[action], verdict, now)

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """As the base says."""
        now = self._clock()
        chat, head, before = self._find(batch_id, Verdict(token, "extend"), now)
        if before or head.lease_ms is None:
            raise LeaseLost(f"the lease of batch {batch_id} is over")
        head.lease_ms = now + lease_ms
        return Extended(batch_id, chat.conversation, head.lease_ms, now)

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        now = self._clock()
        chat = self._world.chat(conversation)
        head = chat.head
        if head is None or head.lease_ms is None or head.lease_ms > now:
            return None
        head.expiries += 1
        head.fail(now, "LEASE_EXPIRED", "")
        if head.expiries >= self._retry.max_expiries:
            return self._end(chat, head, Event.GIVE_UP, Verdict(head.token, "expire"), now)
        return self._again(chat, head, Event.EXPIRE, None, now, due_ms=now)

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        now = self._clock()
        chat = self._world.chat(conversation)
        flushed = chat.flush(now)
        return Flushed(flushed, self._buffer(chat, now), now, chat.opens_ms)

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        now = self._clock()
        chat = self._world.chat(conversation)
        last = self._world.settled_of(conversation, now)
        current = self._info(chat, chat.head) if chat.head else None
        return Status(self._buffer(chat, now), current, last.info if last else None)

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says."""
        now = self._clock()
        dues: dict[str, int] = {}
        leases: list[tuple[int, Conversation]] = []
        for chat in self._world.chats.values():
            if (due := chat.claimable_ms) is not None:
                instance = chat.conversation.instance
                dues[instance] = min(due, dues.get(instance, due))
            if chat.head and chat.head.lease_ms is not None:
                leases.append((chat.head.lease_ms, chat.conversation))
        leases.sort(key=lambda lease: (lease[0], cid_of(lease[1])))
        ready = sorted((due, instance) for instance, due in dues.items() if due <= now)
        later = [due for due in dues.values() if due > now]
        later += [end for end, _ in leases if end > now]
        return Horizon(
            now,
            tuple(instance for _, instance in ready[:limit]),
            tuple(conversation for end, conversation in leases[:limit] if end <= now),
            min(later, default=None),
        )

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says."""
        found = [
            Due(chat.conversation, chat.claimable_ms)
            for chat in self._world.chats.values()
            if chat.conversation.instance == instance and chat.claimable_ms is not None
        ]
        return sorted(found, key=lambda due: (due.due_ms, cid_of(due.conversation)))[:limit]

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        now = self._clock()
        chats = [
            chat
            for chat in self._world.chats.values()
            if instance in (None, chat.conversation.instance)
        ]
        heads = [chat.head for chat in chats if chat.head]
        dues = [chat.claimable_ms for chat in chats if chat.claimable_ms is not None]
        return Stats(
            open_buffers=sum(1 for chat in chats if chat.open_row),
            buffered_messages=sum(len(chat.open_row) for chat in chats),
            delivering_batches=sum(1 for head in heads if head.lease_ms is not None),
            retrying_batches=sum(1 for head in heads if head.lease_ms is None),
            dead_letters=len(await self.dead_letters(instance, limit=1 << 30)),
            oldest_due_age_ms=max(0, now - min(dues, default=now)),
        )

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        now = self._clock()
        for chat in self._world.chats.values():
            if chat.head and chat.head.batch_id == batch_id:
                row = tuple(chat.row[: chat.head.messages])
                return BatchDetails(self._info(chat, chat.head), row, tuple(chat.head.attempts))
        details = self._world.details(batch_id, now)
        if details is None:
            raise NotFound("batch", batch_id)
        return details

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        found = [
            past.info
            for past in self._world.settled.values()
            if past.info.state is BatchState.DEAD_LETTERED
            and instance in (None, past.info.conversation.instance)
        ]
        found.sort(key=lambda info: (info.settled_at_ms or 0, info.batch_id), reverse=True)
        if before:
            found = [i for i in found if (i.settled_at_ms or 0, i.batch_id) < before]
        return found[:limit]

    async def reconcile(self, *, limit: int) -> int:
        """Nothing can be damaged here."""
        return 0

    def _find(self, batch_id: str, verdict: Verdict, now: int) -> tuple[Chat, Head, Settled | None]:
        """The batch that a token speaks of, and the answer that the same verdict got before."""
        for chat in self._world.chats.values():
            if chat.head and chat.head.batch_id == batch_id:
                if chat.head.token == verdict.token:
                    return chat, chat.head, None
                if chat.head.ended == verdict:
                    return chat, chat.head, self._settled(chat, chat.head, now, already=True)
                raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        past = self._world.past(batch_id, now)
        if past is None:
            raise NotFound("batch", batch_id)
        if past.verdict != verdict:
            raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        chat = self._world.chat(past.info.conversation)
        return chat, past.head, Settled(batch_id, chat.conversation, past.info.state, True, now)

    def _again(
        self,
        chat: Chat,
        head: Head,
        event: Event,
        verdict: Verdict | None,
        now: int,
        *,
        due_ms: int,
    ) -> Settled:
        """Have the batch wait for its next delivery. Without a verdict the token stays good."""
        after(head.state, event)
        if event is Event.RELEASE:
            head.forget_attempt()
        head.lease_ms, head.due_ms = None, due_ms
        if verdict:
            head.token, head.ended = "", verdict
        return self._settled(chat, head, now)

    def _end(self, chat: Chat, head: Head, event: Event, verdict: Verdict, now: int) -> Settled:
        """Bring the batch to a final state and open what waits behind it."""
        state = after(head.state, event)
        head.close_attempt(now)
        keep_ms = None if state is BatchState.DEAD_LETTERED else self._retain_status_ms
        info = replace(
            self._info(chat, head),
            state=state,
            next_attempt_at_ms=None,
            settled_at_ms=now,
            expires_at_ms=None if keep_ms is None else now + keep_ms,
        )
        messages = () if state is BatchState.REBUFFERED else tuple(chat.row[: head.messages])
        kept_ms = None if keep_ms is None else now + self._retain_processed_ms
        self._world.settle(head, info, verdict, messages, kept_ms)
        chat.end_head(rebuffer=state is BatchState.REBUFFERED, now_ms=now)
        return Settled(
            head.batch_id, chat.conversation, state, False, now, due_ms=chat.claimable_ms
        )

    def _settled(self, chat: Chat, head: Head, now: int, *, already: bool = False) -> Settled:
        waits = head.due_ms if head.state is BatchState.RETRY_SCHEDULED else None
        return Settled(
            head.batch_id,
            chat.conversation,
            head.state,
            already,
            now,
            next_attempt_at_ms=waits,
            due_ms=None if already else chat.claimable_ms,
        )

    def _buffer(self, chat: Chat, now: int) -> BufferInfo | None:
        if chat.window is None:
            return None
        row = chat.open_row
        return BufferInfo(
            state=BufferState.DUE if chat.window.is_over(now) else BufferState.OPEN,
            message_count=len(row),
            payload_bytes=sum(kept.payload_bytes for kept in row),
            opened_at_ms=row[0].received_at_ms,
            last_message_at_ms=row[-1].received_at_ms,
            flush_at_ms=chat.window.due_ms,
            policy=chat.window.policy,
        )

    def _info(self, chat: Chat, head: Head) -> BatchInfo:
        row = chat.row[: head.messages]
        return BatchInfo(
            batch_id=head.batch_id,
            conversation=chat.conversation,
            state=head.state,
            message_count=len(row),
            payload_bytes=sum(kept.payload_bytes for kept in row),
            first_sequence=row[0].sequence,
            last_sequence=row[-1].sequence,
            opened_at_ms=row[0].received_at_ms,
            due_at_ms=head.window_due_ms,
            sealed_at_ms=head.sealed_ms,
            flush_reason=head.flush_reason,
            attempt=head.attempt,
            next_attempt_at_ms=head.due_ms if head.lease_ms is None else None,
            last_error_reason=head.error_reason,
            last_error_message=head.error_message,
            rebuffer_count=head.rebuffers,
        )

    def _batch(self, chat: Chat, head: Head) -> Batch:
        row = tuple(chat.row[: head.messages])
        return Batch(self._info(chat, head), row, head.token, head.lease_ms or 0)
