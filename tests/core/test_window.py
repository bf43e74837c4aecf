"""Properties of the pure window functions."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate_server.core.model import FlushReason, WindowMode, WindowPolicy
from tidegate_server.core.window import (
    MAX_WIRE_BYTES,
    Arrival,
    Window,
    flush,
    hold,
    join,
    open_window,
    replay,
)

START = 1_700_000_000_000


@st.composite
def policies(draw: st.DrawFn) -> WindowPolicy:
    delay = draw(st.integers(0, 200))
    return WindowPolicy(
        mode=draw(st.sampled_from(WindowMode)),
        delay_ms=delay,
        grace_ms=draw(st.integers(0, delay)),
        max_wait_ms=delay + draw(st.integers(0, 400)),
        max_messages=draw(st.integers(1, 8)),
        max_bytes=draw(st.integers(1, 200)),
    )


@st.composite
def rows(draw: st.DrawFn) -> list[Arrival]:
    gaps = draw(st.lists(st.integers(0, 120), min_size=1, max_size=12))
    at, row = START, list[Arrival]()
    for gap in gaps:
        at += gap
        size = draw(st.sampled_from((0, 1, 10, 60, 250)))
        row.append(Arrival(at, size, size + 40, draw(st.integers(0, 9)) == 0))
    return row


def bound(policy: WindowPolicy) -> int:
    """The longest that a window of the policy stays open."""
    if policy.mode is WindowMode.FIXED:
        return policy.delay_ms + policy.grace_ms
    return policy.max_wait_ms


@given(policies(), rows())
def test_a_window_is_never_late_beyond_its_bound(policy: WindowPolicy, row: list[Arrival]):
    window = replay(policy, row)
    assert window
    assert window.due_ms <= row[0].at_ms + bound(policy)


@given(policies(), rows())
def test_a_window_closes_early_only_for_a_reason(policy: WindowPolicy, row: list[Arrival]):
    window = replay(policy, row)
    assert window
    if window.reason in (FlushReason.DELAY, FlushReason.MAX_WAIT):
        assert window.due_ms >= row[0].at_ms + policy.delay_ms
    else:
        assert window.due_ms in {arrival.at_ms for arrival in row}


@given(policies(), rows())
def test_a_window_keeps_its_limits_unless_one_message_alone_breaks_them(
    policy: WindowPolicy, row: list[Arrival]
):
    window = replay(policy, row)
    assert window
    assert 1 <= window.messages <= policy.max_messages
    assert window.messages == 1 or window.payload_bytes <= policy.max_bytes


@given(policies(), rows())
def test_a_window_holds_a_prefix_of_the_row(policy: WindowPolicy, row: list[Arrival]):
    window = replay(policy, row)
    assert window
    inside = row[: window.messages]
    assert window.payload_bytes == sum(arrival.payload_bytes for arrival in inside)
    assert window.full or window.messages == len(row)
    assert replay(policy, inside[:-1] or inside) is not None


@given(policies(), rows(), st.integers(1, 12))
def test_a_row_replayed_in_parts_gives_the_same_window(
    policy: WindowPolicy, row: list[Arrival], cut: int
):
    window = replay(policy, row[:cut])
    assert window
    for arrival in row[cut:]:
        window, _ = join(window, arrival)
    whole = replay(policy, row)
    assert whole == window


@given(policies(), rows())
def test_the_end_of_a_window_that_is_over_never_moves(policy: WindowPolicy, row: list[Arrival]):
    window = open_window(policy, row[0].at_ms)
    for arrival in row:
        before = window
        window, _ = join(window, arrival)
        if before.messages and before.is_over(arrival.at_ms):
            assert (window.due_ms, window.reason) == (before.due_ms, before.reason)


@given(rows(), policies(), st.integers(0, 300), st.integers(0, 500))
def test_a_hold_never_shortens_a_window_and_keeps_max_wait(
    row: list[Arrival], policy: WindowPolicy, later: int, hold_ms: int
):
    window = replay(policy, row)
    assert window
    now = row[-1].at_ms + later
    held = hold(window, now, hold_ms)
    assert held.due_ms >= window.due_ms
    assert held.due_ms <= max(window.due_ms, window.first_ms + policy.max_wait_ms)
    if window.is_over(now):
        assert held == window


@given(policies(), rows(), st.integers(0, 500))
def test_a_flush_closes_now_and_twice_is_once(policy: WindowPolicy, row: list[Arrival], later: int):
    window = replay(policy, row)
    assert window
    now = row[-1].at_ms + later
    flushed = flush(window, now)
    assert flushed.is_over(now)
    assert flush(flushed, now + 10) == flushed


@given(policies(), rows(), st.integers(0, 12))
def test_messages_that_were_in_a_batch_before_move_no_end(
    policy: WindowPolicy, row: list[Arrival], riders: int
):
    """Rebuffered messages ride along: only limits can make them felt."""
    assume(riders < len(row))
    newer = replay(policy, row[riders:])
    both = replay(policy, row, riders=riders)
    assert newer
    assert both
    assert both.first_ms == newer.first_ms
    if not both.full and not newer.full:
        assert (both.due_ms, both.reason) == (newer.due_ms, newer.reason)
        assert both.messages == riders + newer.messages


@given(policies(), rows(), st.integers(0, 1_000))
def test_with_nothing_newer_a_rebuffered_row_waits_a_whole_delay(
    policy: WindowPolicy, row: list[Arrival], later: int
):
    now = row[-1].at_ms + later
    window = replay(policy, row, riders=len(row), now_ms=now)
    assert window
    assert window.full or window.due_ms == now + policy.delay_ms


def test_a_message_within_grace_moves_the_end_once_and_no_further():
    policy = WindowPolicy(delay_ms=8_000, grace_ms=2_000)
    row = [Arrival(START + at, 1, 1) for at in (0, 5_999, 6_500, 7_900, 9_000)]
    ends = [window.due_ms - START for n in range(5) if (window := replay(policy, row[: n + 1]))]
    assert ends == [8_000, 8_000, 8_500, 9_900, 10_000]


def test_a_sliding_window_ends_at_max_wait_and_says_so():
    policy = WindowPolicy(WindowMode.SLIDING, delay_ms=100, max_wait_ms=250)
    row = [Arrival(START + at, 1, 1) for at in (0, 90, 170, 240)]
    windows: list[Window] = [w for n in range(4) if (w := replay(policy, row[: n + 1]))]
    assert [w.due_ms - START for w in windows] == [100, 190, 250, 250]
    assert windows[-1].reason is FlushReason.MAX_WAIT
    assert all(early.due_ms <= late.due_ms for early, late in pairwise(windows))


def test_a_small_message_does_not_overtake_a_large_one_that_did_not_fit():
    policy = WindowPolicy(max_bytes=100)
    row = [Arrival(START, 60, 60), Arrival(START + 1, 60, 60), Arrival(START + 2, 1, 1)]
    window = replay(policy, row)
    assert window
    assert (window.messages, window.reason) == (1, FlushReason.MAX_BYTES)
    assert join(window, row[2])[1] is False


def test_stored_bytes_have_a_limit_of_their_own():
    policy = WindowPolicy(max_bytes=3 << 20)
    big = Arrival(START, 1, MAX_WIRE_BYTES - 10)
    window = replay(policy, [big, replace(big, at_ms=START + 1)])
    assert window
    assert window.messages == 1
    assert window.full
