"""Primaries that die and are replaced by a replica, and slots that move, under load."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from redis.exceptions import RedisError

from tests.end_to_end.traffic import Load
from tests.support.cluster import ClusterStore
from tests.support.replicas import WatchedStore, follow
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.load import under_load
from tests.torture.losses import losses
from tests.torture.score import Dose, Line, Score
from tidegate import Client, TidegateError
from tidegate_server.core.model import Conversation
from tidegate_server.store.keys import home_of

_PARTITIONS = 64
_ASK = timedelta(seconds=1)


async def _cluster_loses_a_primary(dose: Dose) -> Score:
    """The dead one comes back as a replica before the next one dies."""
    return await _cluster_takes_over(dose, StoreProcess.kill, StoreProcess.start)


async def _primary_hangs(dose: Dose) -> Score:
    """It comes back with writes that it had taken, and that no replica has."""

    async def pause(victim: StoreProcess) -> None:
        victim.pause()

    async def resume(victim: StoreProcess) -> None:
        victim.resume()

    return await _cluster_takes_over(dose, pause, resume)


Deed = Callable[[StoreProcess], Awaitable[None]]


async def _cluster_takes_over(dose: Dose, strike: Deed, heal: Deed) -> Score:
    outages_s: list[float] = []
    async with (
        ClusterStore(appendonly="yes", min_replicas_to_write="1") as cluster,
        ForkedServer(dose.directory, store_url=cluster.url, durability="replicated") as server,
        Client(server.target) as gate,
    ):

        async def fault(chance: random.Random) -> None:
            partition = chance.randrange(_PARTITIONS)
            key = f"{{p{partition}}}"
            victim, heir = await cluster.primary_of(key), await cluster.replica_of(key)
            await strike(victim)
            probe = asyncio.create_task(_works_again(gate, partition))
            await eventually(lambda: _is_primary(heir), within_s=30)
            await heal(victim)
            outages_s.append(await probe)
            await eventually(lambda: _whole(cluster.nodes), within_s=30)
            await cluster.failed_over(key, victim)

        score = await under_load(dose, [server], fault)
    return _with_outages(score, outages_s)


async def _sentinels_replace_a_primary(dose: Dose) -> Score:
    """The dead one is made a replica again before the next one dies."""
    outages_s: list[float] = []
    async with (
        WatchedStore(appendonly="yes", min_replicas_to_write="1") as store,
        ForkedServer(dose.directory, store_url=store.url, durability="replicated") as server,
        Client(server.target) as gate,
    ):

        async def fault(_: random.Random) -> None:
            victim = await store.current()
            await victim.kill()
            probe = asyncio.create_task(_works_again(gate, 0))
            now = await store.failed_over(victim)
            await victim.start()
            await follow(victim, now)
            outages_s.append(await probe)
            await eventually(lambda: _whole([victim, now]), within_s=30)

        score = await under_load(dose, [server], fault)
    return _with_outages(score, outages_s)


async def _unreplicated(dose: Dose) -> Score:
    """A level below `replicated`: the primary dies with writes that its replica has not seen."""
    async with (
        ClusterStore(appendonly="yes") as cluster,
        ForkedServer(dose.directory, store_url=cluster.url, durability="everysec") as server,
    ):

        async def fault(load: Load, chance: random.Random) -> float:
            key = f"{{p{chance.randrange(_PARTITIONS)}}}"
            victim, heir = await cluster.primary_of(key), await cluster.replica_of(key)
            heir.pause()
            async with victim.client() as client:
                await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            await load.more(100)
            await victim.kill()
            at_s = time.monotonic()
            heir.resume()
            await cluster.failed_over(key, victim)
            await victim.start()
            await eventually(lambda: _whole(cluster.nodes), within_s=30)
            return at_s

        return await losses(dose, server, fault)


async def _slots_move(dose: Dose) -> Score:
    """From one primary to another, with the keys in them."""
    async with (
        ClusterStore(appendonly="yes", min_replicas_to_write="1") as cluster,
        ForkedServer(dose.directory, store_url=cluster.url, durability="replicated") as server,
    ):

        async def fault(chance: random.Random) -> None:
            key = f"{{p{chance.randrange(_PARTITIONS)}}}"
            now = await cluster.primary_of(key)
            others = [node for node in cluster.nodes[:3] if node is not now]
            await cluster.move(key, chance.choice(others))

        return await under_load(dose, [server], fault)


async def _works_again(gate: Client, partition: int) -> float:
    """Add to a conversation of the partition until one is acknowledged; how long that took."""
    names = (f"probe {n}" for n in itertools.count())
    chat = next(
        name for name in names if home_of(Conversation("probe", name), _PARTITIONS) == partition
    )
    begun_s = time.monotonic()
    while True:
        with suppress(TidegateError):
            await gate.add("probe", chat, "x", timeout=_ASK)
            return time.monotonic() - begun_s
        await asyncio.sleep(0.02)


async def _is_primary(node: StoreProcess) -> bool:
    async with node.client() as client:
        return (await client.info("replication"))["role"] == "master"


async def _whole(nodes: list[StoreProcess]) -> bool:
    """Whether every primary has a replica, and every replica follows."""
    for node in nodes:
        try:
            async with node.client() as client:
                said = await client.info("replication")
        except RedisError:
            return False
        if said["role"] == "master" and said["connected_slaves"] < 1:
            return False
        if said["role"] == "slave" and said["master_link_status"] != "up":
            return False
    return True


def _with_outages(score: Score, outages_s: list[float]) -> Score:
    middle_s = sorted(outages_s)[len(outages_s) // 2]
    note = f"adds worked again after {middle_s:.1f} s, at most {max(outages_s):.1f} s"
    return replace(score, note=note)


LINES = (
    Line(
        "a Cluster loses a primary, at replicated",
        _cluster_loses_a_primary,
        short=(1, 100),
        long=(50, 10_000),
        expected="a replica takes over, nothing lost",
    ),
    Line(
        "a primary of a Cluster hangs and comes back, at replicated",
        _primary_hangs,
        short=(1, 100),
        long=(50, 10_000),
        in_tests=False,
        expected="a replica takes over, nothing lost",
    ),
    Line(
        "Sentinels replace a primary, at replicated",
        _sentinels_replace_a_primary,
        short=(1, 100),
        long=(50, 10_000),
        in_tests=False,
        expected="a replica takes over, nothing lost",
    ),
    Line(
        "a Cluster loses a primary that was ahead of its replica, at everysec",
        _unreplicated,
        short=(1, 100),
        long=(20, 4_000),
        in_tests=False,
        expected="what the replica had not seen is lost",
    ),
    Line(
        "slots of a Cluster move, at replicated",
        _slots_move,
        short=(2, 200),
        long=(100, 10_000),
        in_tests=False,
        expected="nothing lost",
    ),
)
