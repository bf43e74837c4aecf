"""When a window closes, and what is in it then.

A buffer is a row of messages; its first window covers a prefix of the row. `join` says what one
more message does to that window, `replay` builds the window of a row from nothing. The scripts
of the store take the same decisions; a property test compares every answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tidegate_server.core.model import FlushReason, WindowMode, WindowPolicy

MAX_WIRE_BYTES = 3_407_872
"""Most stored bytes of a batch (3.25 MiB), so that one with long attributes still fits a response."""


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
    if window.full:
        return window, False
    if window.messages and _exceeds(window, arrival):
        return _close(window, arrival.at_ms, FlushReason.MAX_BYTES, full=True), False
    window = _stretch(window, arrival.at_ms)
    window = replace(
        window,
        messages=window.messages + 1,
        payload_bytes=window.payload_bytes + arrival.payload_bytes,
        wire_bytes=window.wire_bytes + arrival.wire_bytes,
    )
    if window.messages >= window.policy.max_messages:
        return _close(window, arrival.at_ms, FlushReason.MAX_MESSAGES, full=True), True
    if window.payload_bytes >= window.policy.max_bytes or window.wire_bytes >= MAX_WIRE_BYTES:
        return _close(window, arrival.at_ms, FlushReason.MAX_BYTES, full=True), True
    if arrival.flush:
        return _close(window, arrival.at_ms, FlushReason.REQUESTED), True
    return window, True


def replay(policy: WindowPolicy, arrivals: Iterable[Arrival]) -> Window | None:
    """The first window of a row of messages: as if they arrived one by one and none was claimed."""
    window = None
    for arrival in arrivals:
        window, joined = join(window or open_window(policy, arrival.at_ms), arrival)
        if not joined:
            break
    return window


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


def _exceeds(window: Window, arrival: Arrival) -> bool:
    return (
        window.payload_bytes + arrival.payload_bytes > window.policy.max_bytes
        or window.wire_bytes + arrival.wire_bytes > MAX_WIRE_BYTES
    )


def _close(window: Window, now_ms: int, reason: FlushReason, *, full: bool = False) -> Window:
    """The window closed at `now_ms`; one that is over keeps its end and its reason."""
    window = replace(window, full=window.full or full)
    if window.is_over(now_ms):
        return window
    return replace(window, due_ms=now_ms, reason=reason)
