"""The reel of newest events, by properties."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate_server.core.model import Conversation
from tidegate_server.engine.reel import LENGTH, Reel, Tail
from tidegate_server.store.signals import EventKind, LiveEvent

ANN = Conversation("bot", "ann")


def event(dropped: int = 0) -> LiveEvent:
    return LiveEvent(EventKind.MESSAGE_ADDED, ANN, 1, dropped=dropped)


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), max_size=8), st.integers(0, 3)
)
def test_a_reader_sees_or_counts_every_event(steps: list[tuple[int, int]], lost: int):
    reel = Reel()
    reel.append(event())
    tail, appended, known = Tail(reel), 0, 0
    for more, reads in steps:
        for _ in range(more):
            reel.append(event(lost))
        appended += more * (1 + lost)
        for _ in range(reads):
            found = tail.take()
            known += 1 + found.dropped if found else 0
    while found := tail.take():
        known += 1 + found.dropped
    assert known == appended


def test_a_reader_that_keeps_up_misses_nothing():
    reel = Reel()
    tail = Tail(reel)
    for _ in range(3 * LENGTH):
        reel.append(event())
        found = tail.take()
        assert found
        assert found.dropped == 0


async def test_a_closed_reel_gives_what_it_has_and_then_ends():
    reel = Reel()
    tail = Tail(reel)
    reel.append(event())
    reel.close()
    assert await tail.next()
    assert await tail.next() is None
