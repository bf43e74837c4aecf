import asyncio
from collections.abc import Mapping, Sequence

from structlog.testing import capture_logs

from tests.engine.support import NOW, servers, taken, until
from tidegate_server.core.model import BatchState


def events(logs: Sequence[Mapping[str, object]]) -> list[object]:
    return [entry["event"] for entry in logs]


async def test_the_store_goes_away_and_comes_back_with_everything():
    with capture_logs() as logs:
        async with servers() as (server,):
            subscriber = server.subscribe("a", most=20)
            await server.add(*(str(n) for n in range(20)))
            server.store.away = True
            await until(lambda: server.store.asked["horizon"] > 1)
            asked = server.store.asked.total()
            await asyncio.sleep(0.25)
            assert server.store.asked.total() - asked <= 4
            server.store.away = False
            names = {(await taken(subscriber)).info.conversation.name for _ in range(20)}
            assert len(names) == 20
            assert server.metrics.delivered == 20
    assert events(logs) == ["deliveries rest until the store answers", "deliveries go on"]


async def test_what_becomes_due_in_an_outage_comes_after_it():
    async with servers(sweep_ms=20) as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann")
        server.store.away = True
        asked = server.store.asked["horizon"]
        await until(lambda: server.store.asked["horizon"] > asked)
        assert await subscriber.next(0.05) is None
        server.store.away = False
        await taken(subscriber)


async def test_a_claim_whose_answer_was_lost_is_repeated_with_its_token():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        server.store.loses_claims = 1
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        assert server.store.tokens == [batch.token, batch.token]
        assert batch.info.attempt == 1
        assert (await server.ack(batch)).state is BatchState.COMPLETED
        assert subscriber.in_flight == 0


async def test_a_batch_whose_lease_was_over_before_the_answer_came_is_not_handed_out():
    async with servers(sweep_ms=20) as (server,):
        gate = server.store.gate = asyncio.Event()
        subscriber = server.subscribe("a", lease_ms=40)
        await server.add("ann", policy=NOW)
        await until(lambda: len(server.store.tokens) == 1)
        again = server.store.gate = asyncio.Event()
        await until(lambda: len(server.store.tokens) == 2)
        gate.set()
        assert await subscriber.next(0.02) is None
        again.set()
        assert (await taken(subscriber)).info.attempt > 1


async def test_a_store_that_keeps_losing_claims_is_not_asked_without_a_pause():
    async with servers() as (server,):
        server.subscribe("a")
        server.store.loses_claims = 1_000
        await server.add("ann", policy=NOW)
        await asyncio.sleep(0.3)
        assert server.store.asked["claim"] <= 5


async def test_a_release_that_fails_costs_no_batch():
    async with servers(sweep_ms=20) as (server,):
        leaving = server.subscribe("a", lease_ms=80)
        await server.add("ann", policy=NOW)
        await until(lambda: leaving.in_flight == 1)
        server.store.away = True
        await server.engine.unsubscribe(leaving)
        server.store.away = False
        assert (await taken(server.subscribe("a"))).info.conversation.name == "ann"


async def test_a_bug_in_the_sweep_is_logged_and_the_sweep_starts_again():
    with capture_logs() as logs:
        async with servers(sweep_ms=10) as (server,):
            server.subscribe("a")
            server.store.bug = RuntimeError("planted")
            await until(lambda: server.store.bug is None)
            asked = server.store.asked["horizon"]
            await until(lambda: server.store.asked["horizon"] > asked)
    assert [(entry["log_level"], entry["task"]) for entry in logs] == [("error", "sweep")]
    assert logs[0]["exc_info"]


async def test_an_idle_server_asks_seldom():
    async with servers(sweep_ms=20) as (server,):
        asked = server.store.asked.total()
        await asyncio.sleep(0.2)
        assert server.store.asked.total() - asked <= 3
