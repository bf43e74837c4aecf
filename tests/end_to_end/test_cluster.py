"""A Cluster of six: a primary is killed and a slot moves away under load; nothing is lost."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.end_to_end.traffic import Load, Reader
from tests.support.audit import contradictions
from tests.support.cluster import ClusterStore
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tidegate import Client
from tidegate_server.core.model import Conversation
from tidegate_server.store.connect import Address
from tidegate_server.store.keys import Keys, home_of
from tidegate_server.store.move import End, move

LEASE = timedelta(seconds=2)
BUSY = home_of(Conversation("bot", "user 0"), 64)


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterStore]:
    async with ClusterStore(appendonly="yes", min_replicas_to_write="1") as store:
        yield store


async def sound(cluster: ClusterStore) -> None:
    """Every partition's keys are where they belong and contradict nothing."""
    from redis import Redis

    for number in range(64):
        node = await cluster.primary_of(f"{{p{number}}}")
        with Redis.from_url(node.url) as client:
            assert contradictions(client, Keys("tg", number)) == []


async def test_a_primary_that_is_killed_and_a_slot_that_moves_lose_nothing(
    tmp_path: Path, history: History, cluster: ClusterStore
):
    slot = f"{{p{BUSY}}}"
    async with (
        Server(tmp_path, store_url=cluster.url, durability="replicated") as server,
        Client(server.target) as gate,
    ):
        async with Reader(gate, history, "bot", lease=LEASE) as reader:
            async with Load([gate], history, "bot", conversations=40) as load:
                await load.more(200)
                before = await cluster.primary_of(slot)
                other = next(n for n in cluster.nodes[:3] if n is not before)
                await cluster.move(slot, other)
                await load.more(300)
                assert await cluster.primary_of(slot) is other
                await other.kill()
                await cluster.failed_over(slot, other)
                await other.start()  # without a replica the new primary takes no writes
                await load.more(300)
            await eventually(history.drained, within_s=30)
        assert len(reader.batches) > 10
    await sound(cluster)


async def test_a_store_moves_to_a_cluster_and_is_served_there(
    tmp_path: Path, history: History, cluster: ClusterStore
):
    async with StoreProcess() as alone:
        async with (
            Server(tmp_path / "a", store_url=alone.url) as server,
            Client(server.target) as gate,
            Load([gate], history, "bot", conversations=40) as load,
        ):
            await load.more(200)
        moved = await move(End(Address(alone.url)), End(Address(cluster.url)), partitions=64)
        assert moved.stats.buffered_messages == load.sent
    async with (
        Server(tmp_path / "b", store_url=cluster.url) as server,
        Client(server.target) as gate,
        Reader(gate, history, "bot", lease=LEASE),
    ):
        await eventually(history.drained, within_s=20)
    await sound(cluster)
