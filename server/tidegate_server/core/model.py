"""The values that every part of the server speaks in.

Times are integer milliseconds of the store's clock since 1970 and say so in their name; numbers of
the enums are those of the wire contract, where they are explained at length. No `repr` shows a
payload, a conversation's name or a lease token.
"""

from dataclasses import dataclass, field
from enum import IntEnum


class WindowMode(IntEnum):
    """How a window closes."""

    FIXED = 1
    SLIDING = 2


class BufferState(IntEnum):
    """Where an open buffer stands."""

    OPEN = 1
    DUE = 2


class FlushReason(IntEnum):
    """Why a window closed."""

    DELAY = 1
    MAX_WAIT = 2
    MAX_MESSAGES = 3
    MAX_BYTES = 4
    REQUESTED = 5


class BatchState(IntEnum):
    """Where a batch stands."""

    DELIVERING = 1
    RETRY_SCHEDULED = 2
    COMPLETED = 3
    DEAD_LETTERED = 4
    REBUFFERED = 5
    DISCARDED = 6


class NackAction(IntEnum):
    """What a subscriber wants to happen to a batch that it did not process."""

    RETRY = 1
    RELEASE = 2
    REBUFFER = 3
    DEAD_LETTER = 4


class DeliveryChannel(IntEnum):
    """How a batch was handed out."""

    STREAM = 1
    PULL = 2
    HTTP_PUSH = 3


class AddOutcome(IntEnum):
    """What became of an added message."""

    BUFFERED = 1
    DUPLICATE = 2


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of one instance (a tenant: a bot, a phone number, an installation)."""

    instance: str
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """When a window closes."""

    mode: WindowMode = WindowMode.FIXED
    delay_ms: int = 8_000
    grace_ms: int = 2_000
    max_wait_ms: int = 30_000
    max_messages: int = 100
    max_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message on its way into the store.

    `body` is what a subscriber will get, already serialised: the store never looks inside.
    """

    conversation: Conversation
    id: str
    body: bytes = field(repr=False)
    payload_bytes: int
    policy: WindowPolicy
    flush: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the store keeps it. `amended_at_ms` is 0 for one that never was."""

    sequence: int
    received_at_ms: int
    payload_bytes: int
    flush: bool
    id: str
    body: bytes = field(repr=False)
    amended_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """The messages of a conversation that are in no batch yet."""

    state: BufferState
    message_count: int
    payload_bytes: int
    opened_at_ms: int
    last_message_at_ms: int
    flush_at_ms: int
    policy: WindowPolicy


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """Everything about a batch but its messages."""

    batch_id: str
    conversation: Conversation
    state: BatchState
    message_count: int
    payload_bytes: int
    first_sequence: int
    last_sequence: int
    opened_at_ms: int
    due_at_ms: int
    sealed_at_ms: int
    flush_reason: FlushReason
    attempt: int
    next_attempt_at_ms: int | None = None
    settled_at_ms: int | None = None
    expires_at_ms: int | None = None
    last_error_reason: str = ""
    last_error_message: str = ""
    rebuffer_count: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch with its messages, under a lease."""

    info: BatchInfo
    messages: tuple[StoredMessage, ...]
    token: str = field(repr=False)
    lease_expires_at_ms: int


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt to deliver a batch."""

    number: int
    channel: DeliveryChannel
    subscriber_id: str
    started_at_ms: int
    ended_at_ms: int | None = None
    error_reason: str = ""
    error_message: str = ""
