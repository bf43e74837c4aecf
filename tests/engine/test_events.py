import asyncio

import pytest

from tests.engine.support import LATER, NOW, PATIENCE_S, Server, message, servers, taken, until
from tidegate_server.core.model import BatchState, Conversation, NackAction
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.engine.reel import LENGTH, Tail
from tidegate_server.errors import Draining, TooManySubscribers
from tidegate_server.store.signals import EventKind, LiveEvent, NoticeKind

ANN = Conversation("a", "ann")


async def seen(tail: Tail) -> LiveEvent:
    async with asyncio.timeout(PATIENCE_S):
        event = await tail.next()
    assert event
    return event


async def kinds(tail: Tail, count: int) -> list[str]:
    return [(await seen(tail)).kind.name for _ in range(count)]


async def turn(server: Server) -> None:
    """A batch from its message to its end, with a detour by each other way."""
    subscriber = server.subscribe("a")
    one = message("ann", policy=NOW)
    await server.engine.add([one])
    await server.engine.add([one])
    batch = await taken(subscriber)
    await server.engine.nack(batch.info.batch_id, batch.token, NackAction.RELEASE)
    batch = await taken(subscriber)
    await server.engine.nack(batch.info.batch_id, batch.token, NackAction.REBUFFER)
    batch = await taken(subscriber)
    await server.ack(batch)
    await server.add("ann", policy=NOW)
    batch = await taken(subscriber)
    await server.engine.nack(batch.info.batch_id, batch.token, NackAction.DEAD_LETTER)


TURN = [
    "MESSAGE_ADDED",
    "MESSAGE_DUPLICATE",
    "BATCH_DELIVERED",
    "BATCH_RETRY_SCHEDULED",
    "BATCH_DELIVERED",
    "BATCH_REBUFFERED",
    "BATCH_DELIVERED",
    "BATCH_COMPLETED",
    "MESSAGE_ADDED",
    "BATCH_DELIVERED",
    "BATCH_DEAD_LETTERED",
]


async def test_who_watches_sees_what_happens_here():
    async with servers() as (server,):
        tail = server.engine.watch(None)
        await turn(server)
        assert await kinds(tail, len(TURN)) == TURN


async def test_who_watches_sees_what_happens_at_another_server():
    async with servers(2) as (here, there):
        tail = there.engine.watch("a")
        await until(lambda: NoticeKind.WATCHING in [told.kind for told in there.store.told])
        await asyncio.sleep(0)
        await turn(here)
        assert await kinds(tail, len(TURN)) == TURN


async def test_an_event_says_what_is_known_after_it():
    async with servers(2) as (here, there):
        tail = here.engine.watch(None)
        await asyncio.sleep(0.01)
        subscriber = here.subscribe("a")
        await here.add("ann", "ann", policy=LATER)
        first, second = await seen(tail), await seen(tail)
        assert first.message_id != second.message_id
        assert second.buffer
        assert second.buffer.message_count == 2
        await here.engine.flush(ANN)
        batch = await taken(subscriber)
        delivered = await seen(tail)
        assert (delivered.batch, delivered.batch_id) == (batch.info, batch.info.batch_id)
        await there.ack(batch)
        completed = await seen(tail)
        assert completed.state is BatchState.COMPLETED
        assert (completed.batch, completed.batch_id) == (None, batch.info.batch_id)


async def test_leases_that_run_out_are_seen_to_the_end():
    async with servers(retry=RetryPolicy(max_expiries=2), sweep_ms=20) as (server,):
        tail = server.engine.watch("a")
        server.subscribe("a", lease_ms=10)
        await server.add("ann", policy=NOW)
        assert await kinds(tail, 6) == [
            "MESSAGE_ADDED",
            "BATCH_DELIVERED",
            "LEASE_EXPIRED",
            "BATCH_DELIVERED",
            "LEASE_EXPIRED",
            "BATCH_DEAD_LETTERED",
        ]


async def test_one_instance_is_watched_apart_from_others():
    async with servers(2) as (here, there):
        tails = [here.engine.watch("a"), there.engine.watch("a")]
        await asyncio.sleep(0.01)
        await here.add("ann", instance="b", policy=LATER)
        await here.add("ann", policy=LATER)
        for tail in tails:
            assert (await seen(tail)).conversation == ANN
            assert tail.take() is None


async def test_while_nobody_watches_nothing_is_published():
    async with servers(2) as (here, there):
        published: list[object] = []
        here.store.on_publish = published.extend
        await here.add("ann", policy=LATER)
        tail = there.engine.watch("a")
        await asyncio.sleep(0.01)
        await here.add("ann", policy=LATER)
        await seen(tail)
        assert len(published) == 1
        there.engine.unwatch(tail)
        assert not there.store.world.watchers


async def test_a_server_that_has_not_been_heard_of_is_published_for_no_more(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("tidegate_server.engine.events.FORGET_S", 0.02)
    async with servers(2) as (here, there):
        published: list[object] = []
        here.store.on_publish = published.extend
        there.engine.watch("a")
        await asyncio.sleep(0.05)
        await here.add("ann", policy=LATER)
        assert published == []


async def test_a_watcher_says_again_that_it_watches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tidegate_server.engine.events.ANNOUNCE_S", 0.01)
    async with servers() as (server,):
        tail = server.engine.watch("a")
        await until(lambda: len(server.store.told) >= 3)
        assert {told.kind for told in server.store.told} == {NoticeKind.WATCHING}
        server.engine.unwatch(tail)
        await asyncio.sleep(0.02)
        told = len(server.store.told)
        await asyncio.sleep(0.03)
        assert len(server.store.told) == told


async def test_a_slow_reader_loses_the_oldest_events_and_is_told_how_many():
    async with servers() as (server,):
        slow, quick = server.engine.watch(None), server.engine.watch(None)
        for n in range(LENGTH + 5):
            await server.add(str(n), policy=LATER)
            assert (await seen(quick)).dropped == 0
        event = await seen(slow)
        assert (event.dropped, event.conversation.name) == (5, "5")
        assert (await seen(slow)).dropped == 0


async def test_a_store_that_is_slow_to_publish_slows_no_add():
    async with servers(2) as (here, there):
        tail = there.engine.watch(None)
        await asyncio.sleep(0.01)
        here.store.publishes = asyncio.Event()
        count = 2 * LENGTH
        async with asyncio.timeout(PATIENCE_S):
            await here.add(*(str(n) for n in range(count)), policy=LATER)
        here.store.publishes.set()
        events = 0
        while events < count:
            events += 1 + (await seen(tail)).dropped
        assert events == count


async def test_a_server_whose_events_are_off_shows_those_of_others():
    async with servers(2, events=[False, True]) as (quiet, other):
        tail = quiet.engine.watch(None)
        await asyncio.sleep(0.01)
        await quiet.add("ann", policy=LATER)
        await other.add("bob", policy=LATER)
        assert (await seen(tail)).conversation.name == "bob"


async def test_watchers_count_against_the_subscribers_limit():
    async with servers(most=2) as (server,):
        server.subscribe("a")
        tail = server.engine.watch(None)
        with pytest.raises(TooManySubscribers):
            server.engine.watch(None)
        with pytest.raises(TooManySubscribers):
            server.subscribe("a")
        server.engine.unwatch(tail)
        server.subscribe("a")


async def test_a_drain_ends_the_tails_and_lets_no_other_in():
    async with servers() as (server,):
        tail = server.engine.watch(None)
        await server.add("ann", policy=LATER)
        await server.engine.drain(1)
        assert (await seen(tail)).kind is EventKind.MESSAGE_ADDED
        assert await tail.next() is None
        with pytest.raises(Draining):
            server.engine.watch(None)
