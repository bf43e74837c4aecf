import asyncio

import pytest

from tests.engine.support import NOW, SOON, Server, message, servers, taken, until
from tidegate_server.core.model import Conversation, DeliveryChannel
from tidegate_server.errors import Superseded
from tidegate_server.store.memory import MemoryStore
from tidegate_server.store.signals import NoticeKind


async def dead_claim(server: Server, name: str) -> None:
    """What a server leaves behind that dies right after its claim."""
    await server.store.add([message(name, policy=NOW)])
    claimed = await MemoryStore.claim(
        server.store,
        Conversation("a", name),
        token="lost",
        lease_ms=20,
        subscriber_id="gone",
        channel=DeliveryChannel.STREAM,
    )
    assert claimed.batch


async def test_a_server_without_subscribers_tells_the_one_that_has_some():
    async with servers(2) as (taker, giver):
        subscriber = giver.subscribe("a")
        await until(lambda: giver.store.asked["due"] > 0)
        await taker.add("ann")
        batch = await taken(subscriber)
        assert [notice.kind for notice in taker.store.told] == [NoticeKind.DUE]
        assert batch.info.sealed_at_ms - batch.info.due_at_ms < 500
        assert len(giver.store.told) == 0


async def test_what_goes_off_together_is_told_together():
    async with servers(2) as (taker, giver):
        subscriber = giver.subscribe("a", most=300)
        await taker.add(*(str(n) for n in range(300)), policy=NOW)
        for _ in range(300):
            await taken(subscriber)
        assert len(taker.store.told) == 300
        assert taker.store.asked["tell"] <= 3


async def test_settling_at_another_server_frees_the_credit():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        await here.add("ann", "bob", policy=NOW)
        batch = await taken(subscriber)
        await there.ack(batch)
        await taken(subscriber)
        assert [notice.kind for notice in there.store.told] == [NoticeKind.SETTLED]
        assert subscriber.in_flight == 1


async def test_what_waits_behind_a_batch_settled_elsewhere_comes_back_here():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        await here.add("ann", policy=NOW)
        first = await taken(subscriber)
        await here.add("ann", policy=NOW)
        await there.ack(first)
        second = await taken(subscriber)
        assert second.info.first_sequence > first.info.last_sequence


async def test_extending_at_another_server_keeps_the_credit():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1, lease_ms=200)
        await here.add("ann", policy=NOW)
        batch = await taken(subscriber)
        extended = await there.engine.extend(batch.info.batch_id, batch.token, None)
        assert extended.lease_expires_at_ms - extended.at_ms == 30_000
        await asyncio.sleep(0.25)
        assert (subscriber.in_flight, here.store.asked["expire"]) == (1, 0)


async def test_a_batch_superseded_at_another_server_comes_again():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        await here.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await here.add("ann", policy=SOON)
        with pytest.raises(Superseded):
            await there.engine.ack(batch.info.batch_id, batch.token, only_if_current=True)
        assert (await taken(subscriber)).info.message_count == 2


async def test_a_lost_notice_is_made_good_by_the_sweep():
    async with servers(2, sweep_ms=40) as (taker, giver):
        taker.store.deaf = True
        subscriber = giver.subscribe("a")
        await taker.add("ann")
        await taken(subscriber)


async def test_the_sweep_also_serves_subscribers_of_everything():
    async with servers(2, sweep_ms=40) as (taker, giver):
        taker.store.deaf = True
        subscriber = giver.subscribe()
        await taker.add("ann", instance="x")
        await taken(subscriber)


async def test_a_dead_servers_lease_is_taken_back_by_the_sweep():
    async with servers(1, sweep_ms=40) as (server,):
        subscriber = server.subscribe("a")
        await dead_claim(server, "ann")
        batch = await taken(subscriber)
        assert batch.info.attempt == 2
        assert server.metrics.expired == 1


async def test_one_that_cannot_be_taken_back_stops_no_other():
    async with servers(1, sweep_ms=40) as (server,):
        subscriber = server.subscribe("a")
        await dead_claim(server, "poison")
        await dead_claim(server, "ann")
        assert (await taken(subscriber)).info.conversation.name == "ann"


async def test_many_servers_race_and_one_of_them_gets_it():
    async with servers(4, sweep_ms=40) as running:
        subscribers = [server.subscribe("a", most=50) for server in running]
        for n in range(50):
            await running[n % 4].add(str(n))
        await until(lambda: sum(server.metrics.delivered for server in running) >= 50)
        assert sum(subscriber.in_flight for subscriber in subscribers) == 50
