"""From the buffer to the subscriber and back: add, claim, settle."""

from collections.abc import Sequence
from dataclasses import replace

from tidegate_server.core.delivery import NACK_EVENTS, Event, after
from tidegate_server.core.model import (
    AddOutcome,
    BatchState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.core.quota import Limit, first_passed
from tidegate_server.core.retry import backoffs
from tidegate_server.errors import LeaseLost, NotFound
from tidegate_server.store.base import Added, AddResult, Claimed, Extended, Settled, Store, refusal
from tidegate_server.store.memory.state import (
    Chat,
    Head,
    Seen,
    Verdict,
    World,
    batch_of,
    buffer_of,
    info_of,
    stored,
)


class Deliveries(Store):
    """Add, claim, ack, nack, extend, expire."""

    world: World

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """As the base says."""
        now = self.world.now()
        first = self.world.sequence + 1
        self.world.sequence += len(messages)
        added: list[Added | Limit] = []
        for message in messages:
            result = self._add(message, first, now)
            first += isinstance(result, Added) and result.outcome is AddOutcome.BUFFERED
            added.append(result)
        return [
            self._after(self.world.chat(message.conversation), result, now)
            for message, result in zip(messages, added, strict=True)
        ]

    def _add(self, message: NewMessage, sequence: int, now: int) -> Added | Limit:
        chat, keep_ms = self.world.chat(message.conversation), self.world.deduplication_ms
        chat.turn_page(now, keep_ms)
        seen = self._seen(chat, message.id, now)
        if seen:
            seen.duplicates += 1
            return Added(AddOutcome.DUPLICATE, seen.sequence, now)
        quota = self.world.quota(message.conversation.instance)
        limit = first_passed(quota, self.world.would_wait(message)) if any(quota) else None
        if limit:
            return limit
        chat.take_id(message.id, sequence, now, keep_ms)
        created = chat.take(stored(message, sequence, now), message.policy, now)
        return Added(AddOutcome.BUFFERED, sequence, now, buffer_created=created)

    def _after(self, chat: Chat, result: Added | Limit, now: int) -> AddResult:
        """The answer, once all that came with the message has been taken."""
        if isinstance(result, Limit):
            return refusal(result, chat.opens_ms, now)
        waits = chat.open_row and result.sequence >= chat.open_row[0].sequence
        return replace(
            result,
            buffer=buffer_of(chat, now) if waits else None,
            due_ms=chat.opens_ms if waits else None,
            in_flight=chat.batch_id,
        )

    def _seen(self, chat: Chat, message_id: str, now: int) -> Seen | None:
        """The id's first copy, if it came within the de-duplication time."""
        for generation in (chat.seen, chat.seen_before):
            seen = generation.get(message_id)
            if seen and seen.at_ms + self.world.deduplication_ms > now:
                return seen
        return None

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
        now = self.world.now()
        chat = self.world.chat(conversation)
        head = chat.head
        if head and head.token == token and head.lease_ms is not None:
            return Claimed(batch_of(chat, head), None, now)
        due_ms = chat.claimable_ms
        if due_ms is None or due_ms > now:
            return Claimed(None, due_ms, now)
        if head is None:
            self.world.fence += 1
            head = chat.seal(f"0-{self.world.fence}-{now}", now)
        head.begin(token, now, lease_ms, channel, subscriber_id)
        return Claimed(batch_of(chat, head), None, now)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the base says."""
        now = self.world.now()
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
        now = self.world.now()
        verdict = Verdict(token, action.name)
        chat, head, before = self._find(batch_id, verdict, now)
        if before:
            return before
        if action is NackAction.RELEASE:
            return self._again(chat, head, Event.RELEASE, verdict, now, due_ms=now)
        if action is NackAction.RETRY:
            waits = backoffs(self.world.retry)
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
        now = self.world.now()
        chat, head, before = self._find(batch_id, Verdict(token, "extend"), now)
        if before or head.lease_ms is None:
            raise LeaseLost(f"the lease of batch {batch_id} is over")
        head.lease_ms = now + lease_ms
        return Extended(batch_id, chat.conversation, head.lease_ms, now)

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        head = chat.head
        if head is None or head.lease_ms is None or head.lease_ms > now:
            return None
        head.expiries += 1
        head.fail(now, "LEASE_EXPIRED", "")
        if head.expiries >= self.world.retry.max_expiries:
            return self._end(chat, head, Event.GIVE_UP, Verdict(head.token, "expire"), now)
        return self._again(chat, head, Event.EXPIRE, None, now, due_ms=now)

    def _find(self, batch_id: str, verdict: Verdict, now: int) -> tuple[Chat, Head, Settled | None]:
        """The batch that a token speaks of, and the answer that the same verdict got before."""
        for chat in self.world.chats.values():
            if chat.head and chat.head.batch_id == batch_id:
                if chat.head.token == verdict.token:
                    return chat, chat.head, None
                if chat.head.ended == verdict:
                    return chat, chat.head, self._settled(chat, chat.head, now, already=True)
                raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        past = self.world.past(batch_id, now)
        if past is None:
            raise NotFound("batch", batch_id)
        if past.verdict != verdict:
            raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        chat = self.world.chat(past.info.conversation)
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
        keep_ms = None if state is BatchState.DEAD_LETTERED else self.world.retain_status_ms
        info = replace(
            info_of(chat, head),
            state=state,
            next_attempt_at_ms=None,
            settled_at_ms=now,
            expires_at_ms=None if keep_ms is None else now + keep_ms,
        )
        messages = () if state is BatchState.REBUFFERED else tuple(chat.row[: head.messages])
        kept_ms = None if keep_ms is None else now + self.world.retain_processed_ms
        self.world.settle(head, info, verdict, messages, kept_ms)
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
