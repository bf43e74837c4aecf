import asyncio
from collections import Counter

import pytest

from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    DeliveryChannel,
    FlushReason,
    WindowPolicy,
)
from tidegate_server.errors import Draining, TooManySubscribers
from tidegate_server.sinks.stream import Closing, Subscriber, Subscribers, Superseded

BYE = Closing("bye", 1_000)


def batch(name: str, instance: str = "a") -> Batch:
    info = BatchInfo(
        batch_id=name,
        conversation=Conversation(instance, name),
        state=BatchState.DELIVERING,
        message_count=0,
        payload_bytes=0,
        first_sequence=1,
        last_sequence=1,
        opened_at_ms=0,
        due_at_ms=0,
        sealed_at_ms=0,
        flush_reason=FlushReason.DELAY,
        attempt=1,
    )
    return Batch(info, (), "token", 30_000)


def opened(subscribers: Subscribers, *instances: str, most: int = 1) -> Subscriber:
    return subscribers.open(
        "worker",
        instances=frozenset(instances),
        max_in_flight=most,
        lease_ms=30_000,
        channel=DeliveryChannel.STREAM,
    )


def give(subscribers: Subscribers, subscriber: Subscriber, name: str) -> Batch:
    given = batch(name)
    subscribers.reserve(subscriber)
    assert subscribers.hand(subscriber, given)
    return given


@pytest.fixture
def subscribers() -> Subscribers:
    return Subscribers(limit=1_000)


async def test_a_batch_occupies_a_credit_until_it_is_settled(subscribers: Subscribers):
    subscriber = opened(subscribers, "a", most=2)
    roomy: list[Subscriber] = []
    subscribers.on_room = roomy.append
    one = give(subscribers, subscriber, "one")
    give(subscribers, subscriber, "two")
    assert await subscriber.next(0) is one
    assert (subscriber.in_flight, subscriber.room) == (2, 0)
    assert not subscribers.room("a")
    assert subscribers.pick("a") is None
    subscribers.settled("one")
    assert (subscriber.in_flight, subscriber.room, roomy) == (1, 1, [subscriber])
    assert subscribers.pick("a") is subscriber


async def test_a_claim_under_way_occupies_a_credit(subscribers: Subscribers):
    subscriber = opened(subscribers, "a")
    subscribers.reserve(subscriber)
    assert (subscriber.pending, subscriber.in_flight) == (1, 0)
    assert subscribers.pick("a") is None
    subscribers.free(subscriber)
    assert subscribers.pick("a") is subscriber


async def test_nobody_gets_a_batch_of_an_instance_it_did_not_name(subscribers: Subscribers):
    opened(subscribers, "b")
    assert not subscribers.listens("a")
    assert subscribers.pick("a") is None


async def test_named_and_all_embracing_subscribers_share_evenly(subscribers: Subscribers):
    opened(subscribers, "a", "x", most=1_000)
    opened(subscribers, "a", most=1_000)
    opened(subscribers, most=1_000)
    opened(subscribers, most=1_000)
    picks: Counter[Subscriber] = Counter()
    for _ in range(400):
        picked = subscribers.pick("a")
        assert picked
        subscribers.reserve(picked)
        picks[picked] += 1
    assert set(picks.values()) == {100}


async def test_a_thousand_full_subscribers_do_not_hide_the_one_with_room(subscribers: Subscribers):
    many = [opened(subscribers, "a") for _ in range(1_000)]
    for subscriber in many:
        subscribers.reserve(subscriber)
    assert subscribers.pick("a") is None
    subscribers.free(many[500])
    assert subscribers.pick("a") is many[500]


async def test_a_settled_batch_that_was_not_taken_is_never_taken(subscribers: Subscribers):
    subscriber = opened(subscribers, "a", most=3)
    give(subscribers, subscriber, "one")
    two = give(subscribers, subscriber, "two")
    subscribers.settled("one")
    assert await subscriber.next(0) is two
    assert await subscriber.next(0) is None


async def test_waits_for_a_batch_and_gives_up_in_time(subscribers: Subscribers):
    subscriber = opened(subscribers, "a", most=2)
    assert await subscriber.next(0.01) is None
    waiting = asyncio.create_task(subscriber.next(None))
    await asyncio.sleep(0)
    given = give(subscribers, subscriber, "one")
    assert await waiting is given


async def test_a_batch_that_is_settled_under_the_waiters_nose_does_not_end_the_wait(
    subscribers: Subscribers,
):
    subscriber = opened(subscribers, "a", most=2)
    waiting = asyncio.create_task(subscriber.next(2))
    await asyncio.sleep(0)
    give(subscribers, subscriber, "one")
    subscribers.settled("one")
    await asyncio.sleep(0)
    two = give(subscribers, subscriber, "two")
    assert await waiting is two


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_call_loses_no_batch(subscribers: Subscribers, turns: int):
    subscriber = opened(subscribers, "a")
    waiting = asyncio.create_task(subscriber.next(None))
    await asyncio.sleep(0)
    given = give(subscribers, subscriber, "one")
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    (answer,) = await asyncio.gather(waiting, return_exceptions=True)
    assert answer is given or await subscriber.next(0) is given


async def test_closing_gives_back_what_was_never_taken(subscribers: Subscribers):
    subscriber = opened(subscribers, "a", most=3)
    one = give(subscribers, subscriber, "one")
    two = give(subscribers, subscriber, "two")
    subscribers.reserve(subscriber)
    assert await subscriber.next(0) is one
    assert subscribers.close(subscriber) == [two]
    assert subscribers.close(subscriber) == []
    assert not subscribers.hand(subscriber, batch("three"))
    subscribers.settled("one")
    assert len(subscribers) == 0
    assert not subscribers.listens("a")


async def test_a_drain_says_closing_and_lets_nobody_in(subscribers: Subscribers):
    subscriber, other = opened(subscribers, "a", most=3), opened(subscribers, most=3)
    taken = give(subscribers, subscriber, "one")
    assert await subscriber.next(0) is taken
    untaken = give(subscribers, subscriber, "two")
    waiting = asyncio.create_task(other.next(None))
    await asyncio.sleep(0)
    assert subscribers.drain(BYE) == [untaken]
    assert await waiting == BYE
    assert [await subscriber.next(None), await subscriber.next(0)] == [BYE, BYE]
    assert (subscriber.closing, subscriber.in_flight) == (True, 1)
    assert subscribers.pick("a") is None
    with pytest.raises(Draining):
        opened(subscribers, "a")


async def test_the_last_one_to_leave_is_noticed(subscribers: Subscribers):
    subscriber = opened(subscribers, "a")
    gone = asyncio.create_task(subscribers.gone())
    await asyncio.sleep(0)
    assert not gone.done()
    subscribers.close(subscriber)
    await gone


async def test_there_is_a_limit():
    subscribers = Subscribers(limit=1)
    opened(subscribers, "a")
    with pytest.raises(TooManySubscribers):
        opened(subscribers, "a")


async def test_named_instances_come_up_in_turn(subscribers: Subscribers):
    opened(subscribers, "a", "b", "c")
    seen = [name for _ in range(3) for name in subscribers.rotate(2)]
    assert Counter(seen) == {"a": 2, "b": 2, "c": 2}


def hint(name: str) -> Superseded:
    policy = WindowPolicy()
    return Superseded(
        name, Conversation("a", name), BufferInfo(BufferState.OPEN, 1, 5, 0, 0, 8_000, policy)
    )


async def test_a_hint_comes_after_its_batch_and_goes_with_it(subscribers: Subscribers):
    subscriber = opened(subscribers, "a", most=3)
    one, two = give(subscribers, subscriber, "one"), give(subscribers, subscriber, "two")
    assert subscribers.tell(hint("one"))
    assert subscribers.tell(hint("two"))
    subscribers.settled("two")
    assert [await subscriber.next(0) for _ in range(3)] == [one, hint("one"), None]
    assert two.info.batch_id == "two"
    assert not subscribers.tell(hint("two"))


async def test_a_closing_stream_is_told_nothing_more(subscribers: Subscribers):
    subscriber = opened(subscribers, "a")
    give(subscribers, subscriber, "one")
    await subscriber.next(0)
    subscribers.tell(hint("one"))
    subscribers.drain(BYE)
    assert not subscribers.tell(hint("one"))
    assert await subscriber.next(0) == BYE


async def test_guests_share_the_limit():
    subscribers = Subscribers(limit=2)
    subscribers.guests = 1
    opened(subscribers, "a")
    with pytest.raises(TooManySubscribers):
        subscribers.admit()
    with pytest.raises(TooManySubscribers):
        opened(subscribers, "a")
    subscribers.guests = 0
    subscribers.admit()
