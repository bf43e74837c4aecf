"""The way to the nodes of a Cluster."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.store.test_real_store import LATER, claim, message
from tests.store.test_sentinel import port_of
from tests.support.adds import take
from tests.support.cluster import ClusterStore
from tests.support.stores import StoreProcess, eventually
from tidegate_server.core.model import AddOutcome, Conversation
from tidegate_server.errors import StartupError
from tidegate_server.metrics import Metrics
from tidegate_server.store.check import Demand
from tidegate_server.store.connect import Address, prepare
from tidegate_server.store.dial import Cluster, Dialer
from tidegate_server.store.redis import RedisStore

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOME = "{p0}"
BOB = Conversation("bot", "bob")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[ClusterStore]:
    async with ClusterStore(appendonly="yes", min_replicas_to_write="1") as store:
        yield store


async def opened(dialer: Dialer, *, within_s: float = 20) -> int:
    """The port that the dialer ends up at, once it does."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await port_of(await dialer.open())
            except (RedisError, OSError):
                await asyncio.sleep(0.05)


async def test_each_partition_is_found_at_its_own_node(cluster: ClusterStore):
    address = Address(cluster.url)
    ports = [await opened(address.dialer(partition)) for partition in range(12)]
    expected = [(await cluster.primary_of(f"{{p{n}}}")).port for n in range(12)]
    assert ports == expected
    assert len(set(ports)) == 3


async def test_one_node_that_answers_is_enough_to_find_all(cluster: ClusterStore):
    address = Address(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[4].port}")
    assert len({await opened(address.dialer(partition)) for partition in range(12)}) == 3


async def test_dialers_that_open_together_ask_together(
    cluster: ClusterStore, monkeypatch: pytest.MonkeyPatch
):
    asked = 0
    ask = Cluster._ask_some  # pyright: ignore[reportPrivateUsage]  # counted, not replaced

    async def count(guide: Cluster):
        nonlocal asked
        asked += 1
        return await ask(guide)

    monkeypatch.setattr(Cluster, "_ask_some", count)
    address = Address(cluster.url)
    await asyncio.gather(*(opened(address.dialer(partition)) for partition in range(64)))
    assert asked == 1


async def test_every_primary_is_judged(cluster: ClusterStore):
    address = Address(cluster.url)
    info = await prepare(address, prefix="tg", demand=Demand("replicated"))
    assert info.durability == "replicated"

    async with cluster.nodes[1].client() as client:
        await client.config_set("appendonly", "no")
        info = await prepare(address, prefix="tg")
        assert info.durability == "memory"
        says = f"127.0.0.1:{cluster.nodes[1].port}: the durability everysec is wanted"
        with pytest.raises(StartupError, match=says):
            await prepare(address, prefix="tg", demand=Demand("everysec"))
        await client.config_set("appendonly", "yes")


async def test_a_plain_url_of_a_node_is_refused(cluster: ClusterStore):
    with pytest.raises(StartupError, match=r"is a node of a cluster: use redis\+cluster://"):
        await prepare(Address(cluster.nodes[0].url), prefix="tg")


async def test_a_cluster_that_does_not_serve_all_slots_is_waited_for():
    async with StoreProcess(tcp=True, cluster_enabled="yes") as node:
        with pytest.raises(StartupError, match="only 0 of the cluster's 16384 slots have a node"):
            await prepare(Address(f"redis+cluster://127.0.0.1:{node.port}"), prefix="tg", wait=0)


async def test_commands_wait_while_their_keys_move_to_another_node(cluster: ClusterStore):
    source = await cluster.primary_of(HOME)
    target = next(node for node in cluster.nodes[:3] if node is not source)
    metrics = Metrics()
    store = RedisStore(Address(cluster.url).dialer(), counters=metrics, timeout=20, replicas=1)
    store.start()
    try:
        for n in range(50):
            await take(store, [message(f"before {n}", policy=LATER)])
        source_id = next(m.id for m in await cluster.members() if m.port == source.port)
        target_id = next(m.id for m in await cluster.members() if m.port == target.port)
        async with source.client() as old, target.client() as new:
            slot = key_slot(HOME.encode())
            await new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
            await old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
            counter = store.runner.keys.shared("ctr")
            await old.execute_command("MIGRATE", "127.0.0.1", target.port, counter, 0, 5000)
            # Half moved: nothing can be done at either.
            errors = metrics.store_errors
            adds = [
                asyncio.create_task(take(store, [message(f"amid {n}", policy=LATER)]))
                for n in range(20)
            ]
            await eventually(lambda: metrics.store_errors > errors + 1)
            assert not any(add.done() for add in adds)
            await cluster.finish_move(HOME, target)
        answers = [answer for (answer,) in await asyncio.gather(*adds)]
        assert [answer.sequence for answer in answers] == [*range(51, 71)]
        assert (await take(store, [message("amid 3", policy=LATER)]))[0].outcome is (
            AddOutcome.DUPLICATE
        )
    finally:
        await store.stop()
        await cluster.move(HOME, source)


async def test_after_the_death_of_a_primary_its_replica_has_what_was_acknowledged(
    cluster: ClusterStore,
):
    store = RedisStore(Address(cluster.url).dialer(), counters=Metrics(), timeout=20, replicas=1)
    await eventually(lambda: cluster.healthy())
    store.start()
    try:
        primary, replica = await cluster.primary_of(HOME), await cluster.replica_of(HOME)
        async with replica.client() as client:
            await client.config_set("min-replicas-to-write", "0")
        names = [f"m{n}" for n in range(30)]
        before = [await take(store, [message(name, chat=BOB)]) for name in names]
        await primary.kill()
        after = asyncio.create_task(take(store, [message("m0", chat=BOB)]))
        assert await cluster.failed_over(HOME, primary) is replica
        await primary.start()
        (answer,) = await after
        assert answer.outcome is AddOutcome.DUPLICATE
        assert answer.sequence == before[0][0].sequence
        batch = (await claim(store, BOB)).batch
        assert batch
        assert [m.id for m in batch.messages] == names
    finally:
        await store.stop()
