"""Power cuts: the store dies, and of its file only that stays which had been put on the disk."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tests.end_to_end.traffic import Load, Reader
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.disk import Disk
from tests.torture.forks import ForkedServer
from tests.torture.load import LEASE
from tests.torture.losses import losses
from tests.torture.preload import compiler_missing
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Client

_A_ROUND = 25
_A_FEW_BYTES = 8_192
"""More than what is under way at a time."""


async def _cut_at_fsync(dose: Dose) -> Score:
    """In a short dose one version of the store after another, in a long one each many times."""
    chance = random.Random(dose.seed)
    kinds = chance.sample(binaries(), min(len(binaries()), (dose.faults + 1) // 2))
    turns = itertools.cycle(kinds)

    async def a_round(history: History, instance: str, cuts: int) -> None:
        name, binary = next(turns)
        directory = dose.directory / f"{instance}-{name}"
        directory.mkdir()
        disk = Disk(directory)
        async with (
            _store(disk, "always", binary) as store,
            ForkedServer(directory, store_url=store.user_url, durability="fsync") as server,
            Client(server.target) as gate,
            Reader(gate, history, instance, lease=LEASE),
        ):
            async with Load([gate], history, instance) as load:
                for _ in range(cuts):
                    await load.more(chance.randint(1, 2 * dose.between))
                    await store.kill()
                    disk.cut(store.dir)
                    await store.start()
                await load.more(1)
            await eventually(history.drained, within_s=30)

    size = min(_A_ROUND, -(-dose.faults // len(kinds)))
    tallies = await in_rounds(dose, size, a_round)
    return add_up(tallies, faults=dose.faults, note=", ".join(name for name, _ in kinds))


def _store(disk: Disk, appendfsync: str, binary: Path | None = None) -> StoreProcess:
    store = StoreProcess(
        binary, appendonly="yes", appendfsync=appendfsync, auto_aof_rewrite_percentage="0"
    )
    store.environ = disk.environ
    return store


async def _cut_at_everysec(dose: Dose) -> Score:
    """A store's own `everysec`."""
    disk = Disk(dose.directory)
    async with (
        _store(disk, "everysec") as store,
        ForkedServer(
            dose.directory,
            store_url=store.user_url,
            durability="everysec",
            max_conversation_messages="0",
        ) as server,
    ):

        async def cut() -> int:
            await store.kill()
            gone = disk.cut(store.dir)
            await store.start()
            return gone

        return await losses(dose, server, partial(_cut_between_syncs, cut))


async def _cut_embedded(dose: Dose) -> Score:
    """The embedded store, whose file its server syncs; both die."""
    disk = Disk(dose.directory)
    server = Server(dose.directory, max_conversation_messages="0")
    server.environ = disk.environ
    async with server:

        async def cut() -> int:
            server.pause()  # or it would start the store again
            os.kill(server.store_pid(), signal.SIGKILL)
            await server.kill()
            gone = disk.cut(server.dir / "data")
            await server.start()
            return gone

        return await losses(dose, server, partial(_cut_between_syncs, cut))


async def _cut_between_syncs(
    cut: Callable[[], Awaitable[int]], load: Load, chance: random.Random
) -> float:
    """Anywhere. A cut just after a sync takes nothing and shows nothing, so there is another."""
    gone, at_s = 0, 0.0
    while gone < _A_FEW_BYTES:
        await load.more(50)
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        at_s = time.monotonic()
        gone = await cut()
    return at_s


LINES = (
    Line(
        "power cut at fsync",
        _cut_at_fsync,
        short=(2, 300),
        long=(100, 20_000),
        missing=compiler_missing,
        expected="nothing lost",
    ),
    Line(
        "power cut at everysec",
        _cut_at_everysec,
        short=(1, 300),
        long=(20, 10_000),
        missing=compiler_missing,
        in_tests=False,
        expected="what the last one or two seconds brought is lost",
    ),
    Line(
        "power cut, embedded store",
        _cut_embedded,
        short=(1, 300),
        long=(20, 10_000),
        missing=compiler_missing,
        expected="what the last one or two seconds brought is lost",
    ),
)
