"""What an OK means at the durability `replicated`, and what is told while replicas are silent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.store.test_real_store import ANN, LATER, claim, message
from tests.support.adds import take
from tests.support.replicas import ReplicatedStore, follow
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate_server.core.model import AddOutcome
from tidegate_server.errors import StartupError, StoreFull, StoreUnavailable, Unconfirmed
from tidegate_server.metrics import Metrics
from tidegate_server.store.check import Demand
from tidegate_server.store.connect import Address, prepare
from tidegate_server.store.redis import RedisStore


class Replicated:
    """A primary with one replica, and servers' views of it that wait for the replica."""

    def __init__(self, processes: ReplicatedStore):
        self.processes = processes
        self.primary, (self.replica,) = processes.primary, processes.replicas
        self.address = Address(processes.url, timeout=5)
        self.metrics = Metrics()
        self.stores: list[RedisStore] = []

    def store(self, *, timeout: float = 0.3, replicas: int = 1) -> RedisStore:
        store = RedisStore(
            self.address.dialer(), counters=self.metrics, timeout=timeout, replicas=replicas
        )
        store.start()
        self.stores.append(store)
        return store


@pytest_asyncio.fixture(params=binaries(), ids=lambda kind: kind[0])
async def replicated(request: pytest.FixtureRequest) -> AsyncIterator[Replicated]:
    kind: tuple[str, Path] = request.param
    async with ReplicatedStore(kind[1], appendonly="yes", min_replicas_to_write="1") as processes:
        world = Replicated(processes)
        yield world
        for store in world.stores:
            await store.stop()


async def test_an_add_is_unconfirmed_while_the_replica_hangs_and_its_repeat_is_a_duplicate(
    replicated: Replicated,
):
    store = replicated.store()
    (added,) = await take(store, [message("m1", policy=LATER)])
    assert added.outcome is AddOutcome.BUFFERED

    replicated.replica.pause()
    for _ in range(2):
        with pytest.raises(Unconfirmed) as caught:
            await take(store, [message("m2", policy=LATER)])
        assert caught.value.reason == "DURABILITY_UNCONFIRMED"
        assert caught.value.maybe_done
    replicated.replica.resume()

    patient = replicated.store(timeout=5)
    (added,) = await take(patient, [message("m2", policy=LATER)])
    assert (added.outcome, added.sequence) == (AddOutcome.DUPLICATE, 2)


async def test_a_batch_is_withheld_until_the_replica_has_it_and_reads_are_not(
    replicated: Replicated,
):
    store = replicated.store()
    await take(store, [message("m1")])
    replicated.replica.pause()
    with pytest.raises(Unconfirmed):
        await claim(store)
    assert (await store.status(ANN)).current_batch
    replicated.replica.resume()
    claimed = await claim(replicated.store(timeout=5))
    assert claimed.batch
    assert claimed.batch.info.attempt == 1


async def test_a_full_store_refuses_adds_and_drains(replicated: Replicated):
    store = replicated.store(timeout=5)
    await take(store, [message("m1")])
    async with replicated.primary.client() as client:
        await client.config_set("maxmemory", "1")
    with pytest.raises(StoreFull):
        await take(store, [message("m2")])
    batch = (await claim(store)).batch
    assert batch
    await store.ack(batch.info.batch_id, batch.token)


async def test_a_store_that_has_lost_its_keys_confirms_again(replicated: Replicated):
    store = replicated.store(timeout=5)
    await take(store, [message("m1", policy=LATER)])
    async with replicated.primary.client() as client:
        await client.delete(store.runner.keys.shared("beat"))
    with pytest.raises(Unconfirmed):
        await take(store, [message("m2", policy=LATER)])
    (added,) = await take(store, [message("m2", policy=LATER)])
    assert added.outcome is AddOutcome.DUPLICATE


async def test_without_its_last_replica_the_store_acknowledges_nothing(replicated: Replicated):
    store = replicated.store()
    await take(store, [message("m1", policy=LATER)])
    await replicated.replica.kill()
    await eventually(lambda: says_good_replicas(replicated.primary, 0))
    with pytest.raises(StoreUnavailable) as caught:
        await take(store, [message("m2", policy=LATER)])
    # Redis 6.2 does not apply the rule to scripts.
    if not isinstance(caught.value, Unconfirmed):
        assert "fewer replicas than its min-replicas-to-write" in str(caught.value)
        assert not caught.value.maybe_done

    await replicated.replica.start()
    await follow(replicated.replica, replicated.primary)
    await replicated.processes.linked()
    (added,) = await take(replicated.store(timeout=5), [message("m2", policy=LATER)])
    assert added.sequence == 2


async def says_good_replicas(primary: StoreProcess, count: int) -> bool:
    async with primary.client() as client:
        return (await client.info("replication"))["min_slaves_good_slaves"] == count


async def test_a_primary_that_is_a_replica_for_a_moment_gets_the_commands_later(
    replicated: Replicated,
):
    store = replicated.store(timeout=10, replicas=0)
    await take(store, [message("m0", policy=LATER)])
    async with replicated.primary.client() as client:
        await client.config_set("min-replicas-to-write", "0")
        await client.execute_command("REPLICAOF", "127.0.0.1", str(replicated.replica.port))
        adds = [
            asyncio.create_task(take(store, [message(f"m{n}", policy=LATER)])) for n in range(1, 6)
        ]
        await eventually(lambda: replicated.metrics.store_errors > 1)
        await client.execute_command("REPLICAOF", "NO", "ONE")
    answers = [answer for (answer,) in await asyncio.gather(*adds)]
    assert [answer.sequence for answer in answers] == [2, 3, 4, 5, 6]


async def test_a_store_with_its_replicas_is_taken(replicated: Replicated):
    info = await prepare(replicated.address, prefix="tg", demand=Demand("replicated"))
    assert info.durability == "replicated"
    assert not info.warnings
    with pytest.raises(StartupError, match="has 1 of 2 replicas: start them, or set"):
        await prepare(replicated.address, prefix="tg", demand=Demand("replicated", 2), wait=0)


async def test_a_replica_that_comes_late_is_waited_for():
    async with ReplicatedStore(
        replicas=0, appendonly="yes", min_replicas_to_write="1"
    ) as processes:
        address = Address(processes.url)
        starting = asyncio.create_task(
            prepare(address, prefix="tg", demand=Demand("replicated"), wait=20)
        )
        await processes.add_replica()
        assert (await starting).durability == "replicated"
