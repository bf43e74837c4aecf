"""Whether what subscribers got is what producers sent: none lost, none twice, in order, well cut.

Pure: it looks at what was sent and at what was delivered, in the order of delivery.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tidegate_server.core.model import Conversation, FlushReason, WindowPolicy
from tidegate_server.core.window import Arrival, Window, join, open_window


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as it was sent."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it was delivered; place and time are the store's."""

    id: str
    text: str
    sequence: int
    received_at_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch as it was delivered, once."""

    batch_id: str
    conversation: Conversation
    messages: tuple[Received, ...]
    due_at_ms: int
    sealed_at_ms: int
    reason: FlushReason

    @property
    def late_ms(self) -> int:
        """How long after the end of its window it was formed."""
        return self.sealed_at_ms - self.due_at_ms


@dataclass(frozen=True, slots=True)
class Record:
    """All that happened. `sent` has every message in order, acknowledged or not."""

    sent: Mapping[Conversation, Sequence[Sent]]
    acknowledged: frozenset[tuple[Conversation, str]]
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, and a sentence for each case in which it does not."""

    name: str
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers. Times are milliseconds; those of lateness come in the order of size."""

    messages_in: int = 0
    batches_out: int = 0
    delivered_again: int = 0
    sizes: tuple[int, ...] = ()
    late_ms: tuple[int, ...] = ()

    def late_at(self, share: float) -> int:
        """The lateness that this share of the batches does not exceed."""
        return self.late_ms[min(len(self.late_ms) - 1, int(share * len(self.late_ms)))]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The checks and the figures of a record."""

    checks: tuple[Check, ...]
    figures: Figures = field(default_factory=Figures)

    @property
    def holds(self) -> bool:
        """Whether every check does."""
        return not any(check.failures for check in self.checks)


def judge(record: Record, policy: WindowPolicy) -> Verdict:
    """Check a record of conversations whose windows all had this policy and were never flushed."""
    firsts, repeats = _split(record.deliveries)
    batches = list(firsts.values())
    by_conversation: defaultdict[Conversation, list[Delivery]] = defaultdict(list)
    for batch in batches:
        by_conversation[batch.conversation].append(batch)
    checks = {
        "every message was acknowledged": _unacknowledged(record),
        "none is lost": _lost(record, batches),
        "none is in two batches": _doubled(batches),
        "none was changed or made up": _foreign(record, batches),
        "each conversation is in order": _disordered(record, by_conversation),
        "a batch that comes again is the same": _unequal(firsts, repeats),
        "each batch is what the window's rules give": (
            line for mine in by_conversation.values() for line in miscut(policy, mine)
        ),
    }
    return Verdict(
        tuple(Check(name, tuple(failures)) for name, failures in checks.items()),
        Figures(
            messages_in=len(record.acknowledged),
            batches_out=len(batches),
            delivered_again=len(repeats),
            sizes=tuple(len(batch.messages) for batch in batches),
            late_ms=tuple(sorted(batch.late_ms for batch in batches)),
        ),
    )


def _split(deliveries: Iterable[Delivery]) -> tuple[dict[str, Delivery], list[Delivery]]:
    """The first delivery of each batch, and the later ones."""
    firsts, repeats = dict[str, Delivery](), list[Delivery]()
    for batch in deliveries:
        if batch.batch_id in firsts:
            repeats.append(batch)
        else:
            firsts[batch.batch_id] = batch
    return firsts, repeats


def _unacknowledged(record: Record) -> Iterator[str]:
    for conversation, messages in record.sent.items():
        for message in messages:
            if (conversation, message.id) not in record.acknowledged:
                yield f"{_named(conversation, message)} was never acknowledged"


def _lost(record: Record, batches: Iterable[Delivery]) -> Iterator[str]:
    delivered = {(batch.conversation, m.id) for batch in batches for m in batch.messages}
    for conversation, messages in record.sent.items():
        for message in messages:
            key = (conversation, message.id)
            if key in record.acknowledged and key not in delivered:
                yield f"{_named(conversation, message)} was acknowledged and never delivered"


def _doubled(batches: Iterable[Delivery]) -> Iterator[str]:
    homes: defaultdict[tuple[Conversation, str], list[str]] = defaultdict(list)
    for batch in batches:
        for message in batch.messages:
            homes[batch.conversation, message.id].append(batch.batch_id)
    for (conversation, message_id), ids in homes.items():
        if len(ids) > 1:
            yield f"{message_id} of {conversation.name} is in {', '.join(ids)}"


def _foreign(record: Record, batches: Iterable[Delivery]) -> Iterator[str]:
    sent = {(c, m.id): m.text for c, messages in record.sent.items() for m in messages}
    for batch in batches:
        for message in batch.messages:
            text = sent.get((batch.conversation, message.id))
            if text is None:
                yield f"{_named(batch.conversation, message)} was never sent"
            elif text != message.text:
                yield f"{_named(batch.conversation, message)} came with another text"


def _disordered(
    record: Record, by_conversation: Mapping[Conversation, Sequence[Delivery]]
) -> Iterator[str]:
    for conversation, batches in by_conversation.items():
        place = {message.id: n for n, message in enumerate(record.sent.get(conversation, ()))}
        row = [message for batch in batches for message in batch.messages if message.id in place]
        for before, after in pairwise(row):
            if place[before.id] > place[after.id] or before.sequence > after.sequence:
                yield f"{after.id} of {conversation.name} came after {before.id}"


def _unequal(firsts: Mapping[str, Delivery], repeats: Iterable[Delivery]) -> Iterator[str]:
    for batch in repeats:
        if batch != firsts[batch.batch_id]:
            yield f"{_of(batch)} came again with other content"


def miscut(policy: WindowPolicy, batches: Iterable[Delivery]) -> Iterator[str]:
    """What of one conversation's batches the window's rules do not give.

    The messages are taken in their order, with the arrival times that the store stamped. One that
    was stamped before a batch was formed was there; in the same millisecond it may have come just
    after. `core.window` then says which of them are in the batch, when it is due, and why.
    """
    batches = sorted(batches, key=lambda batch: batch.messages[0].sequence)
    row = sorted((m for batch in batches for m in batch.messages), key=lambda m: m.sequence)
    done = 0
    for batch in batches:
        rest, done = row[done:], done + len(batch.messages)
        if tuple(rest[: len(batch.messages)]) != batch.messages:
            yield f"{_of(batch)}: its messages do not follow those of the batch before"
            return
        windows = list(_possible(policy, rest, batch.sealed_at_ms))
        if batch.late_ms < 0:
            yield f"{_of(batch)} was formed {-batch.late_ms} ms before it was due"
        elif not any(_matches(window, batch) for window in windows):
            expected = _expected(windows, batch)
            yield f"{_of(batch)} has {_cut(batch)}; it should have {expected}"


def _possible(
    policy: WindowPolicy, rest: Sequence[Received], sealed_at_ms: int
) -> Iterator[Window]:
    """The windows that may have been there when the batch was formed, at that time."""
    certain = bisect.bisect_left(rest, sealed_at_ms, key=lambda m: m.received_at_ms)
    window = open_window(policy, rest[0].received_at_ms)
    for number, message in enumerate(rest, 1):
        if message.received_at_ms > sealed_at_ms or window.full:
            break
        window, _ = join(window, _arrival(message))
        if number >= certain or window.full:
            yield window


def _arrival(message: Received) -> Arrival:
    # A batch of small messages reaches its wire limit never before the others.
    return Arrival(message.received_at_ms, len(message.text.encode()), wire_bytes=0)


def _matches(window: Window, batch: Delivery) -> bool:
    return (window.messages, window.due_ms, window.reason) == (
        len(batch.messages),
        batch.due_at_ms,
        batch.reason,
    )


def _expected(windows: Sequence[Window], batch: Delivery) -> str:
    first_ms = batch.messages[0].received_at_ms
    texts = [_text(w.messages, w.due_ms - first_ms, w.reason) for w in windows]
    return " or ".join(texts) or "none, for it was formed before its first message came"


def _cut(batch: Delivery) -> str:
    after_ms = batch.due_at_ms - batch.messages[0].received_at_ms
    return _text(len(batch.messages), after_ms, batch.reason)


def _text(messages: int, after_ms: int, reason: FlushReason) -> str:
    return f"{messages} messages, due after {after_ms} ms ({reason.name.lower()})"


def _of(batch: Delivery) -> str:
    return f"batch {batch.batch_id} of {batch.conversation.name}"


def _named(conversation: Conversation, message: Sent | Received) -> str:
    return f"{message.id} of {conversation.name}"
