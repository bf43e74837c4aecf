"""What a store does, and what each call guarantees.

Every call is one atomic step, and every call may be repeated after a lost answer: a message by
its id, a claim by its token, a settlement by its token. Any call may raise `StoreUnavailable`.
Times are the store's own; see `core.model` for units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidegate_server.core.model import (
    AddOutcome,
    Batch,
    BatchInfo,
    BatchState,
    BufferInfo,
    Conversation,
    DeliveryAttempt,
    DeliveryChannel,
    NackAction,
    NewMessage,
    StoredMessage,
)
from tidegate_server.core.quota import Limit, retry_after_ms
from tidegate_server.errors import QuotaExceeded
from tidegate_server.store.signals import LiveEvent, Notice


@dataclass(frozen=True, slots=True)
class Added:
    """What became of one message.

    `buffer` is the one that the message is in, after all messages that were taken with it.
    `due_ms` says when the conversation may be claimed, if it may: not while a batch of it is
    unsettled. `in_flight` is that batch's id.
    """

    outcome: AddOutcome
    sequence: int
    at_ms: int
    buffer_created: bool = False
    buffer: BufferInfo | None = None
    due_ms: int | None = None
    in_flight: str | None = None


AddResult = Added | QuotaExceeded
"""What became of one message, or why it was refused."""


def refusal(limit: Limit, due_ms: int | None, now_ms: int) -> QuotaExceeded:
    """The error of a message that would pass a limit; `due_ms` is its conversation's."""
    return QuotaExceeded(
        f"as much waits as TIDEGATE_MAX_{limit.name} allows; repeat it later, have more"
        " subscribers, or raise the limit",
        subject=limit.subject,
        retry_after_ms=retry_after_ms(limit, due_ms, now_ms),
    )


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim: a batch, or when to come again (None: there is nothing to claim)."""

    batch: Batch | None
    due_ms: int | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement left behind. `due_ms`: when the conversation may be claimed next."""

    batch_id: str
    conversation: Conversation
    state: BatchState
    already: bool
    at_ms: int
    next_attempt_at_ms: int | None = None
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Extended:
    """A lease moved."""

    batch_id: str
    conversation: Conversation
    lease_expires_at_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """The answer to a flush. `flushed`: a window was open and is over now."""

    flushed: bool
    buffer: BufferInfo | None
    at_ms: int
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The answer to a hold. `held`: a window was open."""

    held: bool
    buffer: BufferInfo | None
    at_ms: int
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A buffer after a change to its messages; None if the last one is gone."""

    buffer: BufferInfo | None
    at_ms: int
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is known of one message. Neither buffer nor batch: it was taken out, or forgotten."""

    sequence: int
    received_at_ms: int
    duplicates: int
    buffer: BufferInfo | None
    batch: BatchInfo | None
    attempts: tuple[DeliveryAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Requeued:
    """The answer to a requeue. `applied`: it was a dead letter till now."""

    applied: bool
    conversation: Conversation | None = None
    at_ms: int = 0
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What was forgotten of a conversation, and the unsettled batch that went with it."""

    messages: int
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One conversation of a listing, and the time that gives its place in it."""

    conversation: Conversation
    place_ms: int
    buffer: BufferInfo | None
    current_batch: BatchInfo | None


@dataclass(frozen=True, slots=True)
class Status:
    """Where a conversation stands. All unset: nothing is known of it."""

    buffer: BufferInfo | None
    current_batch: BatchInfo | None
    last_batch: BatchInfo | None


@dataclass(frozen=True, slots=True)
class Due:
    """A conversation that may be claimed from `due_ms` on."""

    conversation: Conversation
    due_ms: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """What a look at the indexes found: hints, true at `at_ms`.

    `instances` are those with something due, `expired` the conversations whose lease is over,
    `next_ms` the earliest time at which there will be something new.
    """

    at_ms: int
    instances: tuple[str, ...]
    expired: tuple[Conversation, ...]
    next_ms: int | None


@dataclass(frozen=True, slots=True)
class BatchDetails:
    """A batch with its attempts, and its messages while they are kept."""

    info: BatchInfo
    messages: tuple[StoredMessage, ...]
    attempts: tuple[DeliveryAttempt, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Gauges of one instance, or of all."""

    open_buffers: int = 0
    buffered_messages: int = 0
    delivering_batches: int = 0
    retrying_batches: int = 0
    dead_letters: int = 0
    oldest_due_age_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What the store is, as its own answers say: "valkey", "9.1.2", "everysec"."""

    product: str
    version: str
    durability: str
    embedded: bool = False
    warnings: tuple[str, ...] = field(default=())


class Store(ABC):
    """The store of buffers, batches and dead letters."""

    @abstractmethod
    async def tell(self, notices: Sequence[Notice]) -> None:
        """Tell the other servers. Best effort: never raises, and the sender does not hear it."""

    @abstractmethod
    def listen(self, handler: Callable[[Notice], None]) -> None:
        """Have `handler` called in the event loop for each notice of another server."""

    @abstractmethod
    async def publish(self, events: Sequence[LiveEvent]) -> None:
        """Show events to the servers that watch. Best effort, as `tell`."""

    @abstractmethod
    def watch(self, handler: Callable[[LiveEvent], None] | None) -> None:
        """Have `handler` called for each event that another server publishes; None: no more."""

    @abstractmethod
    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """Take messages, those of one conversation in the order given.

        All or, with an error raised, none of them is taken, but for those that would pass a
        limit: these have the error as their answer, and nothing of them is stored. An id that the
        conversation has seen within the de-duplication time is answered as a duplicate, also
        where there is no room, and changes nothing.

        Raises:
            StoreFull: The store is out of memory; nothing was stored.
        """

    @abstractmethod
    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        """Lease the conversation's next batch, forming it first if its window is over.

        `token` is new for every claim; a repeat with the same one answers the same batch.
        """

    @abstractmethod
    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """Settle a batch as processed.

        With `only_if_current`, and newer messages waiting, the answer's state is REBUFFERED: the
        batch is not settled as processed, and all of the messages are one buffer now.

        Raises:
            NotFound: No such batch, or forgotten.
            LeaseLost: Another claim or another settlement came first.
        """

    @abstractmethod
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
        """Give a batch back as not processed. `reason` and `message` are kept with the attempt.

        Raises:
            NotFound: No such batch, or forgotten.
            LeaseLost: Another claim or another settlement came first.
        """

    @abstractmethod
    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """Move the end of a lease to `lease_ms` from now.

        Raises:
            NotFound: No such batch, or forgotten.
            LeaseLost: The lease is over and taken back, or another claim came first.
        """

    @abstractmethod
    async def expire(self, conversation: Conversation) -> Settled | None:
        """Take back a batch whose lease is over: due at once, or a dead letter after too many.

        None if the conversation has no such batch (any more).
        """

    @abstractmethod
    async def flush(self, conversation: Conversation) -> Flushed:
        """Close the conversation's window now."""

    @abstractmethod
    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """Keep the window open for `hold_ms` from now, up to `max_wait` after its first message."""

    @abstractmethod
    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """Replace a message that is still in the buffer. Place and arrival stay.

        Raises:
            NotFound: It never came, was taken out, or is forgotten.
            AlreadySealed: It is in a batch, or was.
            QuotaExceeded: It is larger now and passes a limit; nothing changed.
            StoreFull: The store is out of memory; nothing changed.
        """

    @abstractmethod
    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """Take a message out of the buffer; the last one out closes the window without a batch.

        A message that was taken out before is no error.

        Raises:
            NotFound: It never came, or is forgotten.
            AlreadySealed: It is in a batch, or was.
        """

    @abstractmethod
    async def discard(self, conversation: Conversation) -> int:
        """Drop the buffer without delivering it. The number of messages dropped."""

    @abstractmethod
    async def track(self, conversation: Conversation, message_id: str) -> Tracked:
        """Follow one message.

        Raises:
            NotFound: It never came, or is forgotten.
        """

    @abstractmethod
    async def conversations(
        self, instance: str | None, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[Listed]:
        """Those with a buffer or a batch, by due time or lease end, soonest first.

        `after` is the place (time and cid) of the last one before.
        """

    @abstractmethod
    async def requeue(self, batch_id: str) -> Requeued:
        """Put the messages of a dead letter back into the buffer, due at once. Exactly once."""

    @abstractmethod
    async def delete(self, batch_id: str) -> bool:
        """Throw a dead letter away. False if it is none (any more)."""

    @abstractmethod
    async def erase(self, conversation: Conversation) -> Erased:
        """Forget all that is stored of a conversation."""

    @abstractmethod
    async def status(self, conversation: Conversation) -> Status:
        """Where the conversation stands."""

    @abstractmethod
    async def horizon(self, *, limit: int) -> Horizon:
        """What is due and which leases are over, at most `limit` of each."""

    @abstractmethod
    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """Conversations of the instance that may be claimed soonest, also those still to come."""

    @abstractmethod
    async def stats(self, instance: str | None = None) -> Stats:
        """Gauges. The cost does not grow with the number of conversations."""

    @abstractmethod
    async def batch(self, batch_id: str) -> BatchDetails:
        """One batch, its attempts, and its messages while they are kept.

        Raises:
            NotFound: No such batch, or forgotten.
        """

    @abstractmethod
    async def find(self, batch_id: str) -> Conversation:
        """The conversation of a batch.

        Raises:
            NotFound: No such batch, or forgotten.
        """

    @abstractmethod
    async def dead_letters(
        self, instance: str | None, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[BatchInfo]:
        """Dead letters, newest first, from the one after `before` (its settled time and id) on."""

    @abstractmethod
    async def reconcile(self, *, limit: int) -> int:
        """Look at up to `limit` further conversations and repair what cannot happen.

        Returns the number of repairs: 0 unless something from outside changed the store's keys.
        """
