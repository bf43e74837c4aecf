"""The values that go in and come out, all immutable.

Times are aware datetimes in UTC, lengths of time are timedeltas. A value of an enum that this
version does not know is read as its UNSPECIFIED. A `repr` shows no payload and no conversation,
so that it may be logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

__all__ = [
    "AddOutcome",
    "Added",
    "Attempt",
    "BatchDetails",
    "BatchInfo",
    "BatchState",
    "BufferInfo",
    "BufferState",
    "ConversationInfo",
    "DeliveryChannel",
    "Event",
    "EventKind",
    "FlushReason",
    "Flushed",
    "Held",
    "Message",
    "NackAction",
    "NewMessage",
    "ReceivedMessage",
    "ServerInfo",
    "Stats",
    "Status",
    "Tracked",
    "WindowMode",
    "WindowPolicy",
]


class WindowMode(IntEnum):
    """How a window closes."""

    UNSPECIFIED = 0
    FIXED = 1
    SLIDING = 2


class BufferState(IntEnum):
    """Where an open buffer stands: its window is open, or over and it waits to be handed out."""

    UNSPECIFIED = 0
    OPEN = 1
    DUE = 2


class AddOutcome(IntEnum):
    """What became of an added message. After FALLBACK it is the caller's to handle, at once."""

    UNSPECIFIED = 0
    BUFFERED = 1
    DUPLICATE = 2
    FALLBACK = 3


class FlushReason(IntEnum):
    """Why a window closed."""

    UNSPECIFIED = 0
    DELAY = 1
    MAX_WAIT = 2
    MAX_MESSAGES = 3
    MAX_BYTES = 4
    REQUESTED = 5


class BatchState(IntEnum):
    """Where a batch stands. All but DELIVERING and RETRY_SCHEDULED are final."""

    UNSPECIFIED = 0
    DELIVERING = 1
    RETRY_SCHEDULED = 2
    COMPLETED = 3
    DEAD_LETTERED = 4
    REBUFFERED = 5
    DISCARDED = 6


class NackAction(IntEnum):
    """What is to happen to a batch that was not processed.

    RETRY: again after a backoff, a dead letter after the last retry. RELEASE: again to anyone, at
    once, and not counted as an attempt. REBUFFER: its messages go back to the front of the
    conversation's buffer. DEAD_LETTER: never again.
    """

    UNSPECIFIED = 0
    RETRY = 1
    RELEASE = 2
    REBUFFER = 3
    DEAD_LETTER = 4


class DeliveryChannel(IntEnum):
    """How a batch was handed out."""

    UNSPECIFIED = 0
    STREAM = 1
    PULL = 2
    HTTP_PUSH = 3


class EventKind(IntEnum):
    """What happened to a message or a batch."""

    UNSPECIFIED = 0
    MESSAGE_ADDED = 1
    MESSAGE_DUPLICATE = 2
    BATCH_DELIVERED = 3
    BATCH_COMPLETED = 4
    BATCH_RETRY_SCHEDULED = 5
    BATCH_DEAD_LETTERED = 6
    BATCH_REBUFFERED = 7
    LEASE_EXPIRED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPolicy:
    """When a window closes. None, and an UNSPECIFIED mode, take the instance's default."""

    mode: WindowMode = WindowMode.UNSPECIFIED
    delay: timedelta | None = None
    grace: timedelta | None = None
    max_wait: timedelta | None = None
    max_messages: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. The payload is text or bytes."""

    id: str
    payload: str | bytes = field(repr=False)
    content_type: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    occurred_at: datetime | None = None

    @property
    def text(self) -> str:
        """The payload, if it is text; else empty."""
        return self.payload if isinstance(self.payload, str) else ""

    @property
    def binary(self) -> bytes:
        """The payload, if it is bytes; else empty."""
        return self.payload if isinstance(self.payload, bytes) else b""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One message for `Client.add_many`, with what `Client.add` takes for it."""

    instance: str
    conversation: str = field(repr=False)
    payload: str | bytes = field(repr=False)
    message_id: str | None = field(default=None, kw_only=True)
    content_type: str | None = field(default=None, kw_only=True)
    attributes: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False)
    occurred_at: datetime | None = field(default=None, kw_only=True)
    policy: WindowPolicy | None = field(default=None, kw_only=True)
    flush: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage(Message):
    """One message as the server hands it out.

    `sequence` grows by arrival within the conversation. `received_at` is the store's clock.
    `traceparent` and `tracestate` are those of the call that added it: link to them.
    """

    sequence: int
    received_at: datetime
    traceparent: str = ""
    tracestate: str = ""
    amended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferInfo:
    """The messages of a conversation that are not in a batch yet, and when their window closes."""

    state: BufferState
    message_count: int
    payload_bytes: int
    opened_at: datetime
    last_message_at: datetime
    flush_at: datetime
    policy: WindowPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInfo:
    """Everything about a batch but its messages.

    `batch_id` stays the same over all deliveries: use it to de-duplicate. `attempt` counts from 1.
    `last_error_reason` is machine-readable, such as "NACKED" or "LEASE_EXPIRED".
    """

    batch_id: str
    instance: str
    conversation: str = field(repr=False)
    state: BatchState
    message_count: int
    payload_bytes: int
    first_sequence: int
    last_sequence: int
    opened_at: datetime
    due_at: datetime
    sealed_at: datetime
    flush_reason: FlushReason
    attempt: int
    max_attempts: int
    next_attempt_at: datetime | None = None
    settled_at: datetime | None = None
    expires_at: datetime | None = None
    last_error_reason: str = ""
    last_error_message: str = ""
    rebuffer_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of one message.

    With `fallback_to_immediate` it was not buffered, and the caller handles it now;
    `fallback_reason` says why, such as "STORE_UNAVAILABLE". `buffer_created`: it opened the window.
    `buffer` is the buffer after the call. It is None for a fallback, for a duplicate whose first
    copy is in a batch, and where one request added several messages for all of a conversation but
    the last.
    """

    outcome: AddOutcome
    message_id: str
    sequence: int
    buffer_created: bool
    fallback_to_immediate: bool
    fallback_reason: str
    buffer: BufferInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushed:
    """Whether a window was open, and the buffer that is due now."""

    flushed: bool
    buffer: BufferInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Whether a window was open, and its buffer, if there is one."""

    held: bool
    buffer: BufferInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a conversation stands: its open buffer, its batch in progress, its newest settled."""

    buffer: BufferInfo | None
    current_batch: BatchInfo | None
    last_batch: BatchInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to deliver a batch. An empty `error_reason` is success."""

    number: int
    channel: DeliveryChannel
    subscriber_id: str
    started_at: datetime
    ended_at: datetime | None
    error_reason: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDetails:
    """A batch with its messages, empty once they expired, and its attempts, oldest first."""

    info: BatchInfo
    messages: tuple[ReceivedMessage, ...]
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """The way of one message: the buffer it waits in, or the batch that holds it.

    `duplicates` counts the copies that were refused. `attempts` are the batch's, oldest first.
    """

    sequence: int
    received_at: datetime
    duplicates: int
    buffer: BufferInfo | None
    batch: BatchInfo | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationInfo:
    """A conversation with its open buffer and its batch in progress, whichever there is."""

    instance: str
    conversation: str = field(repr=False)
    buffer: BufferInfo | None
    current_batch: BatchInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the live tail.

    `message_id` and `buffer` belong to an event of a message, `batch` to one of a batch.
    `dropped` counts the events left out before this one because the reader was slow.
    """

    time: datetime
    kind: EventKind
    instance: str
    conversation: str = field(repr=False)
    message_id: str
    buffer: BufferInfo | None
    batch: BatchInfo | None
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Version, limits and capabilities of a server."""

    version: str
    replica_id: str
    started_at: datetime
    default_policy: WindowPolicy
    max_message_bytes: int
    max_attempts: int
    durability: str
    store: str
    capabilities: tuple[str, ...]
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Gauges as of now, and the replica's counters since it started, by name."""

    open_buffers: int
    buffered_messages: int
    delivering_batches: int
    retrying_batches: int
    dead_letters: int
    subscribers: int
    oldest_due_age: timedelta
    counters: Mapping[str, float]
