"""What the scripts answer, as values."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from tidegate_server.core.model import (
    AddOutcome,
    Batch,
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    DeliveryAttempt,
    DeliveryChannel,
    FlushReason,
    StoredMessage,
    WindowMode,
    WindowPolicy,
)
from tidegate_server.core.quota import Limit, Quota
from tidegate_server.store.base import Added, AddResult, Settled, refusal
from tidegate_server.store.codec import Corrupt, decode

Meta = Mapping[bytes, bytes]
_FULL = 3


@lru_cache(maxsize=1024)
def policy_line(policy: WindowPolicy) -> bytes:
    """A policy as the scripts read it."""
    return b"%d %d %d %d %d %d" % (
        policy.mode,
        policy.delay_ms,
        policy.grace_ms,
        policy.max_wait_ms,
        policy.max_messages,
        policy.max_bytes,
    )


@lru_cache(maxsize=1024)
def quota_line(quota: Quota) -> bytes:
    """Limits as the scripts read them."""
    return b"%d %d %d %d %d %d" % quota


@lru_cache(maxsize=1024)
def _policy(words: tuple[bytes, ...]) -> WindowPolicy:
    mode, *numbers = (int(word) for word in words)
    return WindowPolicy(WindowMode(mode), *numbers)


def buffer(window: bytes, rest: bytes, now_ms: int) -> BufferInfo | None:
    """The buffer of its two lines, None for empty ones."""
    if not window:
        return None
    words = window.split()
    due_ms = int(words[7])
    opened, last, count, size = rest.split()[:4]
    return BufferInfo(
        state=BufferState.DUE if now_ms >= due_ms else BufferState.OPEN,
        message_count=int(count),
        payload_bytes=int(size),
        opened_at_ms=int(opened),
        last_message_at_ms=int(last),
        flush_at_ms=due_ms,
        policy=_policy(tuple(words[:6])),
    )


class _After(NamedTuple):
    """A conversation after ADD; `first` is the first sequence in its buffer."""

    buffer: BufferInfo | None
    due_ms: int | None
    in_flight: str | None
    first: int


def added(answer: Sequence[Any], places: Sequence[int]) -> list[AddResult]:
    """The answer of ADD. `places` has the place of each message's conversation, from 0."""
    now_ms, outcomes, states = answer
    after = [_after(state, now_ms) for state in states]
    return [
        _added(outcome, after[place], now_ms)
        for outcome, place in zip(outcomes, places, strict=True)
    ]


def _after(state: Sequence[Any], now_ms: int) -> _After:
    window, rest, in_flight, first = state
    info = buffer(window, rest, now_ms)
    due_ms = info.flush_at_ms if info and not in_flight else None
    return _After(info, due_ms, in_flight.decode() or None, first)


def _added(outcome: Sequence[int], after: _After, now_ms: int) -> AddResult:
    kind, number, opened = outcome
    if kind == _FULL:
        return refusal(Limit(number), after.due_ms, now_ms)
    waits = kind == AddOutcome.BUFFERED or number >= after.first
    return Added(
        AddOutcome(kind),
        number,
        now_ms,
        buffer_created=opened == 1,
        buffer=after.buffer if waits else None,
        due_ms=after.due_ms if waits else None,
        in_flight=after.in_flight,
    )


def settled(batch_id: str, conversation: Conversation, answer: Sequence[Any]) -> Settled:
    """The answer of ACK, NACK and EXPIRE when they settled, or had settled before."""
    now_ms, word, state, next_attempt, *due = answer
    return Settled(
        batch_id,
        conversation,
        BatchState(state),
        word == b"ALREADY",
        now_ms,
        next_attempt_at_ms=optional(next_attempt),
        due_ms=optional(due[0]) if due else None,
    )


def table(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A flat hash as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def optional(value: bytes | int) -> int | None:
    """A number, or None for the empty text."""
    return None if value == b"" else int(value)


def unsettled(
    meta: Meta, conversation: Conversation, *, leased: bool, due_ms: int | None
) -> BatchInfo | None:
    """The batch in front of a conversation."""
    if b"id" not in meta:
        return None
    return _info(
        meta[b"id"].decode(),
        conversation,
        meta,
        BatchState.DELIVERING if leased else BatchState.RETRY_SCHEDULED,
        next_attempt_at_ms=None if leased else due_ms,
    )


def past(batch_id: str, conversation: Conversation, status: Meta) -> BatchInfo:
    """A batch in a final state."""
    return _info(
        batch_id,
        conversation,
        status,
        BatchState(int(status[b"state"])),
        settled_at_ms=int(status[b"settled"]),
        expires_at_ms=optional(status[b"expires"]),
    )


class Past(NamedTuple):
    """One of a conversation's past batches."""

    batch_id: str
    first: int
    last: int
    state: BatchState


class State(NamedTuple):
    """The answer of STATUS. Messages and attempts only if they were asked for."""

    at_ms: int
    buffer: BufferInfo | None
    current: BatchInfo | None
    past: tuple[Past, ...]
    attempts: tuple[DeliveryAttempt, ...]
    elements: Sequence[bytes]


def state(answer: Sequence[Any], conversation: Conversation) -> State:
    """The answer of STATUS."""
    now_ms, flat, lease, due, lines, attempts, elements = answer
    meta = table(flat)
    return State(
        now_ms,
        buffer(meta.get(b"window", b""), meta.get(b"buffer", b""), now_ms),
        unsettled(meta, conversation, leased=lease != b"", due_ms=optional(due)),
        tuple(map(_past_line, lines)),
        legible(attempts),
        elements,
    )


def _past_line(line: bytes) -> Past:
    _, batch_id, first, last, number = line.split()
    return Past(batch_id.decode(), int(first), int(last), BatchState(int(number)))


def _info(
    batch_id: str, conversation: Conversation, fields: Meta, state: BatchState, **times: int | None
) -> BatchInfo:
    n, size, first, last, opened, due, sealed, why, rebuffers = map(int, fields[b"batch"].split())
    return BatchInfo(
        batch_id=batch_id,
        conversation=conversation,
        state=state,
        message_count=n,
        payload_bytes=size,
        first_sequence=first,
        last_sequence=last,
        opened_at_ms=opened,
        due_at_ms=due,
        sealed_at_ms=sealed,
        flush_reason=FlushReason(why),
        attempt=int(fields[b"attempt"]),
        last_error_reason=fields.get(b"reason", b"").decode(),
        last_error_message=fields.get(b"error", b"").decode(),
        rebuffer_count=rebuffers,
        **times,
    )


def claimed(answer: Sequence[Any], conversation: Conversation) -> Batch:
    """The batch of CLAIM's answer.

    Raises:
        Corrupt: An element of its list is no message.
    """
    _, _, flat, ends, elements = answer
    meta = table(flat)
    info = unsettled(meta, conversation, leased=True, due_ms=None)
    if info is None:
        raise ValueError("a claimed conversation has no batch")
    return Batch(info, messages(elements), meta[b"token"].decode(), int(ends))


def messages(elements: Sequence[bytes]) -> tuple[StoredMessage, ...]:
    """The messages of a list's elements."""
    return tuple(map(decode, elements))


def readable(elements: Sequence[bytes]) -> tuple[StoredMessage, ...]:
    """The messages of a list's elements, without those that are damaged."""
    found: list[StoredMessage] = []
    for element in elements:
        with suppress(Corrupt):
            found.append(decode(element))
    return tuple(found)


def legible(elements: Sequence[bytes]) -> tuple[DeliveryAttempt, ...]:
    """The attempts of a list of them, without those that are damaged."""
    found: list[DeliveryAttempt] = []
    for element in elements:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            found.append(attempt(element))
    return tuple(found)


def attempt(element: bytes) -> DeliveryAttempt:
    """One attempt of a list of attempts."""
    fields = json.loads(element)
    ended = fields.get("ended")
    return DeliveryAttempt(
        number=fields["number"],
        channel=DeliveryChannel(fields["channel"]),
        subscriber_id=fields["subscriber"],
        started_at_ms=int(fields["started"]),
        ended_at_ms=int(ended) if ended else None,
        error_reason=fields.get("reason", ""),
        error_message=fields.get("message", ""),
    )
