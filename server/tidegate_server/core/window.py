"""When a window closes, and what is in it then.

A buffer is a row of messages; its first window covers a prefix of the row. `join` says what one
more message does to that window, `replay` builds the window of a row from nothing. The scripts
of the store take the same decisions; a property test compares every answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidegate_server.core.model import FlushReason, WindowMode, WindowPolicy

MAX_WIRE_BYTES = 3_407_872
"""Most stored bytes of a batch (3.25 MiB): with long attributes too it must fit a response."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a window has to know of a message: when it came, its sizes, whether it asks to flush."""

    at_ms: int
    payload_bytes: int
    wire_bytes: int
    flush: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A window that has at least one message.

    `full` windows take no more messages, whatever their size: order forbids a small message to
    overtake a large one that did not fit.
    """

    policy: WindowPolicy
    first_ms: int
    due_ms: int
    reason: FlushReason
    messages: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    full: bool = False

    def is_over(self, now_ms: int) -> bool:
        """Whether the window has closed: from its due time on, that millisecond included."""
        return now_ms >= self.due_ms


def open_window(policy: WindowPolicy, at_ms: int) -> Window:
    """The still empty window that opens at `at_ms`."""
    return Window(policy, at_ms, at_ms + policy.delay_ms, FlushReason.DELAY)


def join(window: Window, arrival: Arrival) -> tuple[Window, bool]:
    """What `arrival` does to the window, and whether it is in it.

    A message that is not in it waits behind it, for a window that counts from the first of those.
    """
    if not _fits(window, arrival):
        return _fill(window, arrival.at_ms, FlushReason.MAX_BYTES), False
    window = _count(_stretch(window, arrival.at_ms), arrival)
    return (flush(window, arrival.at_ms) if arrival.flush else window), True


def ride(window: Window, arrival: Arrival) -> tuple[Window, bool]:
    """As `join`, for a message that was in a batch before: it counts and moves nothing."""
    if not _fits(window, arrival):
        return _fill(window, window.first_ms, FlushReason.MAX_BYTES), False
    return _count(window, replace(arrival, at_ms=window.first_ms)), True


def replay(
    policy: WindowPolicy,
    arrivals: Sequence[Arrival],
    *,
    riders: int = 0,
    now_ms: int = 0,
) -> Window | None:
    """The first window of a row of messages: as if they arrived one by one and none was claimed.

    The first `riders` of the row were in a batch before. They count against the limits, but they
    neither open the window nor move its end; if there is nothing else, it opens at `now_ms`.
    """
    if not arrivals:
        return None
    newer = arrivals[riders:]
    window = open_window(policy, newer[0].at_ms if newer else now_ms)
    for index, arrival in enumerate(arrivals):
        window, joined = ride(window, arrival) if index < riders else join(window, arrival)
        if not joined:
            break
    return window


def rebuild(
    window: Window, arrivals: Sequence[Arrival], *, riders: int = 0, now_ms: int
) -> Window | None:
    """The window after a change to its messages, which are counted anew.

    Its end moves only if it is full now and was not over. None if no message is left.
    """
    counted = replay(window.policy, arrivals, riders=riders, now_ms=now_ms)
    if counted is None:
        return None
    if counted.full and not window.is_over(now_ms):
        return replace(counted, first_ms=window.first_ms, due_ms=now_ms)
    return replace(counted, first_ms=window.first_ms, due_ms=window.due_ms, reason=window.reason)


def flush(window: Window, now_ms: int) -> Window:
    """The window, closed now unless it is over already."""
    return _close(window, now_ms, FlushReason.REQUESTED)


def hold(window: Window, now_ms: int, hold_ms: int) -> Window:
    """The window, open for at least `hold_ms` more, up to `max_wait` after its first message.

    Never shortens a window, and never opens one again that is over.
    """
    until = min(now_ms + hold_ms, window.first_ms + window.policy.max_wait_ms)
    if window.is_over(now_ms) or until <= window.due_ms:
        return window
    capped = until == window.first_ms + window.policy.max_wait_ms
    return replace(
        window, due_ms=until, reason=FlushReason.MAX_WAIT if capped else FlushReason.DELAY
    )


def _stretch(window: Window, at_ms: int) -> Window:
    """The end moved by a message at `at_ms`: by grace (fixed) or by the whole delay (sliding)."""
    if window.is_over(at_ms):
        return window
    policy, reason = window.policy, FlushReason.DELAY
    if policy.mode is WindowMode.FIXED:
        until = min(at_ms + policy.grace_ms, window.first_ms + policy.delay_ms + policy.grace_ms)
    else:
        limit = window.first_ms + policy.max_wait_ms
        until = min(at_ms + policy.delay_ms, limit)
        reason = FlushReason.MAX_WAIT if until == limit else FlushReason.DELAY
    return window if until <= window.due_ms else replace(window, due_ms=until, reason=reason)


def _fits(window: Window, arrival: Arrival) -> bool:
    """Whether the window takes the message. An empty one takes a message of any size."""
    if window.full:
        return False
    return not window.messages or (
        window.payload_bytes + arrival.payload_bytes <= window.policy.max_bytes
        and window.wire_bytes + arrival.wire_bytes <= MAX_WIRE_BYTES
    )


def _count(window: Window, arrival: Arrival) -> Window:
    """The window with the message in it, closed if that makes it full."""
    window = replace(
        window,
        messages=window.messages + 1,
        payload_bytes=window.payload_bytes + arrival.payload_bytes,
        wire_bytes=window.wire_bytes + arrival.wire_bytes,
    )
    if window.messages >= window.policy.max_messages:
        return _fill(window, arrival.at_ms, FlushReason.MAX_MESSAGES)
    if window.payload_bytes >= window.policy.max_bytes or window.wire_bytes >= MAX_WIRE_BYTES:
        return _fill(window, arrival.at_ms, FlushReason.MAX_BYTES)
    return window


def _fill(window: Window, now_ms: int, reason: FlushReason) -> Window:
    return replace(_close(window, now_ms, reason), full=True)


def _close(window: Window, now_ms: int, reason: FlushReason) -> Window:
    """The window closed at `now_ms`; one that is over keeps its end and its reason."""
    if window.is_over(now_ms):
        return window
    return replace(window, due_ms=now_ms, reason=reason)
