import asyncio

import pytest
from structlog.testing import capture_logs

from tests.engine.support import LATER, NOW, PATIENCE_S, Server, servers, taken, until
from tidegate_server.core.model import Batch, BatchState
from tidegate_server.errors import Draining
from tidegate_server.sinks.stream import Closing, Subscriber


async def leave(server: Server, subscriber: Subscriber) -> list[Batch]:
    """What a stream does: hand on what comes, and end with the closing."""
    batches: list[Batch] = []
    while isinstance(event := await subscriber.next(PATIENCE_S), Batch):
        batches.append(event)
    assert isinstance(event, Closing)
    await server.engine.unsubscribe(subscriber)
    return batches


async def test_a_drain_closes_the_streams_and_gives_back_what_was_not_taken():
    async with servers(2) as (old, new):
        subscriber = old.subscribe("a", most=3)
        await old.add("ann", "bob", "cid", "dan", policy=NOW)
        held = await taken(subscriber)
        await until(lambda: subscriber.in_flight == 3)
        heir = new.subscribe("a")
        await asyncio.gather(old.engine.drain(PATIENCE_S), leave(old, subscriber))
        assert old.engine.draining
        names = {(await taken(heir)).info.conversation.name for _ in range(3)}
        assert names | {held.info.conversation.name} == {"ann", "bob", "cid", "dan"}
        assert (await old.ack(held)).state is BatchState.COMPLETED
        assert (old.metrics.released, new.metrics.expired) == (2, 0)


async def test_a_claim_under_way_at_the_drain_is_given_back():
    async with servers(2) as (old, new):
        subscriber = old.subscribe("a")
        old.store.gate = asyncio.Event()
        await old.add("ann", policy=NOW)
        await until(lambda: bool(old.store.tokens))
        draining = asyncio.create_task(old.engine.drain(PATIENCE_S))
        assert await leave(old, subscriber) == []
        heir = new.subscribe("a")
        old.store.gate.set()
        await draining
        assert (await taken(heir)).info.attempt == 1


async def test_a_draining_server_lets_nobody_in_and_claims_nothing():
    async with servers() as (server,):
        await server.engine.drain(0.1)
        with pytest.raises(Draining):
            server.subscribe("a")
        await server.add("ann", policy=NOW)
        await until(lambda: bool(server.store.told))
        assert server.store.asked["claim"] == 0


async def test_a_drain_ends_though_a_subscriber_stays():
    with capture_logs() as logs:
        async with servers() as (server,):
            subscriber = server.subscribe("a")
            await server.engine.drain(0.02)
            assert len(server.engine.subscribers) == 1
            assert subscriber.closing
    assert [entry["event"] for entry in logs] == ["drain took too long"]


async def test_rolling_restarts_under_load_lose_and_repeat_nothing():
    async with servers(4) as running:
        seen: list[str] = []

        async def work(server: Server, subscriber: Subscriber) -> None:
            while isinstance(event := await subscriber.next(PATIENCE_S), Batch):
                seen.append(event.info.batch_id)
                await asyncio.sleep(0.001)
                await server.ack(event)
            await server.engine.unsubscribe(subscriber)

        workers = [asyncio.create_task(work(s, s.subscribe("a", most=4))) for s in running]
        for n in range(40):
            await running[3].add(*(f"{n} {m}" for m in range(10)), policy=NOW)
            if n % 10 == 5 and n < 30:
                await running[n // 10].engine.drain(PATIENCE_S)
            await asyncio.sleep(0.001)
        await until(lambda: len(seen) >= 400)
        await running[3].engine.drain(PATIENCE_S)
        await asyncio.gather(*workers)
        assert len(set(seen)) == len(seen) == 400
        assert sum(server.metrics.acked for server in running) == 400


async def test_stop_leaves_nothing_running():
    before = asyncio.all_tasks()
    async with servers() as (server,):
        server.subscribe("a")
        await server.add("ann", policy=LATER)
    assert asyncio.all_tasks() == before
