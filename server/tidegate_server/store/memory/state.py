"""The state of the reference store: what one conversation is, and what is remembered of batches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tidegate_server.core import window as windows
from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    DeliveryAttempt,
    DeliveryChannel,
    FlushReason,
    NewMessage,
    StoredMessage,
    WindowPolicy,
)
from tidegate_server.core.quota import Quota
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.core.window import Arrival, Window
from tidegate_server.store.base import BatchDetails
from tidegate_server.store.codec import encode
from tidegate_server.store.signals import LiveEvent, Notice


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who settled a batch, and how: what makes a repeat recognisable."""

    token: str
    action: str


@dataclass(slots=True)
class Seen:
    """A message id that the conversation has taken."""

    sequence: int
    at_ms: int
    duplicates: int = 0
    gone: bool = False


@dataclass(slots=True)
class Head:
    """The sealed batch in front of a conversation's row."""

    batch_id: str
    messages: int
    window_due_ms: int
    sealed_ms: int
    flush_reason: FlushReason
    policy: WindowPolicy
    rebuffers: int
    token: str = ""
    lease_ms: int | None = None
    due_ms: int = 0
    attempt: int = 0
    nacks: int = 0
    expiries: int = 0
    ended: Verdict | None = None
    error_reason: str = ""
    error_message: str = ""
    attempts: list[DeliveryAttempt] = field(default_factory=list[DeliveryAttempt])

    @property
    def state(self) -> BatchState:
        """Leased, or waiting for the next delivery."""
        if self.lease_ms is None:
            return BatchState.RETRY_SCHEDULED
        return BatchState.DELIVERING

    def begin(
        self, token: str, now_ms: int, lease_ms: int, channel: DeliveryChannel, subscriber: str
    ) -> None:
        """Lease it for one more attempt."""
        self.token, self.lease_ms = token, now_ms + lease_ms
        self.attempt += 1
        self.attempts.append(DeliveryAttempt(self.attempt, channel, subscriber, now_ms))

    def fail(self, now_ms: int, reason: str, message: str) -> None:
        """Write down how the attempt failed."""
        self.error_reason, self.error_message = reason, message
        self.close_attempt(now_ms, reason, message)

    def close_attempt(self, now_ms: int, reason: str = "", message: str = "") -> None:
        """End the attempt under way, if there is one."""
        if self.attempts and self.attempts[-1].ended_at_ms is None:
            self.attempts[-1] = replace(
                self.attempts[-1], ended_at_ms=now_ms, error_reason=reason, error_message=message
            )

    def forget_attempt(self) -> None:
        """A released delivery does not count."""
        if self.lease_ms is not None:
            self.attempt -= 1
            self.attempts.pop()


@dataclass(slots=True)
class Chat:
    """One conversation: its row of messages, sealed ones first, and the window of the rest."""

    conversation: Conversation
    row: list[StoredMessage] = field(default_factory=list[StoredMessage])
    head: Head | None = None
    window: Window | None = None
    riders: int = 0
    rebuffers: int = 0
    flushed_sequence: int = 0
    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])
    seen_before: dict[str, Seen] = field(default_factory=dict[str, Seen])
    seen_until_ms: int | None = None

    @property
    def open_row(self) -> list[StoredMessage]:
        """The messages that are in no batch."""
        return self.row[self.head.messages :] if self.head else self.row

    @property
    def batch_id(self) -> str | None:
        """The unsettled batch."""
        return self.head.batch_id if self.head else None

    @property
    def claimable_ms(self) -> int | None:
        """When it may be claimed: never while a batch is leased, and a retry goes first."""
        if self.head:
            return self.head.due_ms if self.head.lease_ms is None else None
        return self.window.due_ms if self.window else None

    @property
    def opens_ms(self) -> int | None:
        """When its buffer may be claimed, if no batch is in front of it."""
        return None if self.head else self.claimable_ms

    def turn_page(self, now_ms: int, keep_ms: int) -> None:
        """Begin a new generation of ids once the current one is `keep_ms` old."""
        if self.seen_until_ms is not None and self.seen_until_ms <= now_ms:
            self.seen_before, self.seen, self.seen_until_ms = self.seen, {}, now_ms + keep_ms

    def take_id(self, message_id: str, sequence: int, now_ms: int, keep_ms: int) -> None:
        """Remember an id. The first one begins the first generation."""
        self.seen[message_id] = Seen(sequence, now_ms)
        if self.seen_until_ms is None:
            self.seen_until_ms = now_ms + keep_ms

    def recall(self, message_id: str) -> Seen | None:
        """What is known of an id."""
        return self.seen.get(message_id) or self.seen_before.get(message_id)

    def take(self, message: StoredMessage, policy: WindowPolicy, now_ms: int) -> bool:
        """Append a message. True if it opened the window."""
        only_riders = self.riders == len(self.open_row)
        self.row.append(message)
        arrival = _arrival(message)
        if self.window is None:
            self.window, _ = windows.join(windows.open_window(policy, now_ms), arrival)
            return True
        if only_riders and not self.window.full and not self.window.is_over(now_ms):
            self.window = windows.replay(policy, self._arrivals(), riders=self.riders)
            return True
        self.window, _ = windows.join(self.window, arrival)
        return False

    def seal(self, batch_id: str, now_ms: int) -> Head:
        """Make the first window of the row a batch."""
        window = self.window
        if window is None:
            raise ValueError("a conversation without messages has nothing to seal")
        self.head = Head(
            batch_id=batch_id,
            messages=window.messages,
            window_due_ms=window.due_ms,
            sealed_ms=now_ms,
            flush_reason=window.reason,
            policy=window.policy,
            rebuffers=self.rebuffers,
        )
        self.riders = max(0, self.riders - window.messages)
        if not self.riders:
            self.rebuffers = 0
        self._rewind(window.policy, now_ms)
        return self.head

    def end_head(self, *, rebuffer: bool, now_ms: int) -> None:
        """Take the batch off the front, or put its messages back into the buffer."""
        head, before = self.head, self.window
        if head is None:
            raise ValueError("there is no batch to end")
        self.head = None
        if not rebuffer:
            del self.row[: head.messages]
            return
        self.riders += head.messages
        self.rebuffers = head.rebuffers + 1
        if before:
            self.recount(before, now_ms)
        else:
            self._rewind(head.policy, now_ms)

    def recount(self, before: Window, now_ms: int) -> None:
        """The window after its messages have changed."""
        self.window = windows.rebuild(before, self._arrivals(), riders=self.riders, now_ms=now_ms)
        if not self.riders:
            self.rebuffers = 0

    def take_out(self, message: StoredMessage, now_ms: int) -> None:
        """Remove a message of the open row."""
        place = self.open_row.index(message)
        self.row.remove(message)
        if place < self.riders:
            self.riders -= 1
        if self.window:
            self.recount(self.window, now_ms)

    def put_back(
        self, messages: Sequence[StoredMessage], policy: WindowPolicy, now_ms: int
    ) -> None:
        """Append the messages of a dead letter, due at once."""
        window = self.window or windows.open_window(policy, now_ms)
        for message in messages:
            self.row.append(message)
            window, _ = windows.join(window, replace(_arrival(message), flush=False))
        self.window = windows.flush(window, now_ms)
        self.flushed_sequence = self.row[-1].sequence

    def drop_buffer(self) -> list[StoredMessage]:
        """Take all messages of the open row out."""
        dropped = self.open_row
        self.row = self.row[: self.head.messages] if self.head else []
        self.window, self.riders, self.rebuffers = None, 0, 0
        return dropped

    def flush(self, now_ms: int) -> bool:
        """Close the window; messages beyond its limits follow at once."""
        if self.window is None:
            return False
        was_open = not self.window.is_over(now_ms)
        self.window = windows.flush(self.window, now_ms)
        self.flushed_sequence = self.row[-1].sequence
        return was_open

    def _rewind(self, policy: WindowPolicy, now_ms: int) -> None:
        """Build the window of the open row anew."""
        row = self.open_row
        self.window = windows.replay(policy, self._arrivals(), riders=self.riders, now_ms=now_ms)
        newer = row[self.riders :]
        if self.window and newer and newer[0].sequence <= self.flushed_sequence:
            self.window = windows.flush(self.window, now_ms)

    def _arrivals(self) -> list[Arrival]:
        return [_arrival(message) for message in self.open_row]


@dataclass(slots=True)
class Past:
    """A batch in a final state. The times say when it, and its messages, are forgotten."""

    head: Head
    info: BatchInfo
    verdict: Verdict
    messages: tuple[StoredMessage, ...]
    kept_ms: int | None


@dataclass(slots=True)
class World:
    """All that the store holds, and the rules that it follows."""

    now: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    deduplication_ms: int = 3_600_000
    retain_status_ms: int = 3_600_000
    retain_processed_ms: int = 300_000
    quota: Callable[[str], Quota] = field(default=lambda _: Quota())
    sequence: int = 0
    fence: int = 0
    chats: dict[Conversation, Chat] = field(default_factory=dict[Conversation, Chat])
    settled: dict[str, Past] = field(default_factory=dict[str, Past])
    newest: dict[Conversation, str] = field(default_factory=dict[Conversation, str])
    replicas: list[list[Callable[[Notice], None]]] = field(
        default_factory=list[list[Callable[[Notice], None]]]
    )
    watchers: dict[object, Callable[[LiveEvent], None]] = field(
        default_factory=dict[object, Callable[[LiveEvent], None]]
    )

    def chat(self, conversation: Conversation) -> Chat:
        """The conversation, empty if nothing is known of it."""
        return self.chats.setdefault(conversation, Chat(conversation))

    def would_wait(self, message: NewMessage) -> Quota:
        """What would wait if the message were taken; buffers only if it opens one."""
        everywhere = [chat for chat in self.chats.values() if chat.open_row]
        instance = message.conversation.instance
        here = [chat for chat in everywhere if chat.conversation.instance == instance]
        row = self.chat(message.conversation).open_row
        return Quota(
            conversation_messages=len(row) + 1,
            conversation_bytes=sum(kept.payload_bytes for kept in row) + message.payload_bytes,
            instance_messages=sum(len(chat.open_row) for chat in here) + 1,
            instance_buffers=0 if row else len(here) + 1,
            store_messages=sum(len(chat.open_row) for chat in everywhere) + 1,
            store_buffers=0 if row else len(everywhere) + 1,
        )

    def settle(
        self,
        head: Head,
        info: BatchInfo,
        verdict: Verdict,
        messages: tuple[StoredMessage, ...],
        kept_ms: int | None,
    ) -> None:
        """Remember how a batch ended."""
        self.settled[info.batch_id] = Past(head, info, verdict, messages, kept_ms)
        self.newest[info.conversation] = info.batch_id

    def renumber(self, messages: Sequence[StoredMessage], now_ms: int) -> tuple[StoredMessage, ...]:
        """The messages as if they arrived again."""
        first = self.sequence + 1
        self.sequence += len(messages)
        return tuple(
            replace(message, sequence=first + place, received_at_ms=now_ms)
            for place, message in enumerate(messages)
        )

    def throw_away(self, past: Past) -> None:
        """Make a dead letter a discarded batch: its messages go, and the rest in a while."""
        now_ms = self.now()
        past.messages = ()
        past.info = replace(
            past.info,
            state=BatchState.DISCARDED,
            settled_at_ms=now_ms,
            expires_at_ms=now_ms + self.retain_status_ms,
        )

    def past(self, batch_id: str, now_ms: int) -> Past | None:
        """A batch in a final state, unless it has been forgotten."""
        past = self.settled.get(batch_id)
        expires_ms = past.info.expires_at_ms if past else None
        return None if expires_ms is not None and expires_ms <= now_ms else past

    def settled_of(self, conversation: Conversation, now_ms: int) -> Past | None:
        """The conversation's newest batch in a final state."""
        return self.past(self.newest.get(conversation, ""), now_ms)

    def details(self, batch_id: str, now_ms: int) -> BatchDetails | None:
        """A batch in a final state with what is still kept of it."""
        past = self.past(batch_id, now_ms)
        if past is None:
            return None
        forgotten = past.kept_ms is not None and past.kept_ms <= now_ms
        messages = () if forgotten else past.messages
        return BatchDetails(past.info, messages, tuple(past.head.attempts))


def stored(message: NewMessage, sequence: int, now_ms: int) -> StoredMessage:
    """The message as it lies in the store."""
    return StoredMessage(
        sequence, now_ms, message.payload_bytes, message.flush, message.id, message.body
    )


def _arrival(message: StoredMessage) -> Arrival:
    return Arrival(
        message.received_at_ms, message.payload_bytes, len(encode(message)), message.flush
    )


def buffer_of(chat: Chat, now: int) -> BufferInfo | None:
    """The conversation's buffer as the world sees it."""
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


def info_of(chat: Chat, head: Head) -> BatchInfo:
    """The batch in front of a conversation."""
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


def batch_of(chat: Chat, head: Head) -> Batch:
    """The same with its messages."""
    row = tuple(chat.row[: head.messages])
    return Batch(info_of(chat, head), row, head.token, head.lease_ms or 0)
