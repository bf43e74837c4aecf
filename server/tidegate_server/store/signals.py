"""What servers that share a store tell each other: notices, and events for those who watch."""

import hashlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from tidegate_server.core.model import BatchInfo, BatchState, BufferInfo, Conversation


class NoticeKind(StrEnum):
    """What one server tells the others that share the store."""

    DUE = "due"
    SETTLED = "settled"
    EXTENDED = "extended"
    SUPERSEDED = "superseded"
    WATCHING = "watching"


@dataclass(frozen=True, slots=True)
class Notice:
    """A hint from one server to the others; it may get lost, and nothing depends on it.

    `due`: the conversation may be claimed from `at_ms` on, and the sender has no subscriber for
    it. `settled`: the batch needs no lease any more, whose token has the `mark`; none: whatever
    the token. `extended`: its lease ends at `at_ms`. `superseded`: newer messages wait behind the
    batch. `watching`: somebody at the sender watches the events of the conversation's instance, or
    of all if that is empty.
    """

    kind: NoticeKind
    conversation: Conversation
    batch_id: str = ""
    at_ms: int = 0
    mark: str = ""


def mark_of(token: str) -> str:
    """What tells a lease's token from another one without giving it away."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


class EventKind(IntEnum):
    """What happened. The numbers are those of the wire contract."""

    MESSAGE_ADDED = 1
    MESSAGE_DUPLICATE = 2
    BATCH_DELIVERED = 3
    BATCH_COMPLETED = 4
    BATCH_RETRY_SCHEDULED = 5
    BATCH_DEAD_LETTERED = 6
    BATCH_REBUFFERED = 7
    LEASE_EXPIRED = 8


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event of the live tail, never with a payload. `dropped` were left out before it.

    An event of a batch has its id, its state after the event and when it is tried again; `batch`,
    the same at its delivery, only where the server handed the batch out itself.
    """

    kind: EventKind
    conversation: Conversation
    at_ms: int
    message_id: str = ""
    buffer: BufferInfo | None = None
    batch_id: str = ""
    state: BatchState | None = None
    next_attempt_at_ms: int | None = None
    batch: BatchInfo | None = None
    dropped: int = 0
