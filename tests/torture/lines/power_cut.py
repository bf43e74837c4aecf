"""Power cuts: the store dies, and of its file only that stays which had been put on the disk."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from tests.end_to_end.traffic import Load, Reader, flush, window
from tests.support.history import Add, History, Phase, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.disk import Disk
from tests.torture.lines.kills import LEASE
from tests.torture.preload import compiler_missing
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Client

_A_ROUND = 25
_KEPT = window(600)
"""Nothing is delivered before the cuts are over, so what is lost is lost messages."""
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
            Server(directory, store_url=store.url, durability="fsync") as server,
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
        Server(dose.directory, store_url=store.url, durability="everysec") as server,
    ):

        async def cut() -> int:
            await store.kill()
            gone = disk.cut(store.dir)
            await store.start()
            return gone

        return await _losses(dose, server, cut)


async def _cut_embedded(dose: Dose) -> Score:
    """The embedded store, whose file its server syncs; both die."""
    disk = Disk(dose.directory)
    server = Server(dose.directory)
    server.environ = disk.environ
    async with server:

        async def cut() -> int:
            server.pause()  # or it would start the store again
            os.kill(server.store_pid(), signal.SIGKILL)
            await server.kill()
            gone = disk.cut(server.dir / "data")
            await server.start()
            return gone

        return await _losses(dose, server, cut)


async def _losses(dose: Dose, server: Server, cut: Callable[[], Awaitable[int]]) -> Score:
    """Add, cut, add, cut; then see what comes out."""
    chance, history = random.Random(dose.seed), History()
    cuts_s: list[float] = []
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(Client(server.target))
        async with Load([gate], history, "bot", producers=2, policy=_KEPT) as load:
            for _ in range(dose.faults):
                await load.more(dose.between)
                gone = 0
                while gone < _A_FEW_BYTES:  # else it came just after a sync, and shows nothing
                    await asyncio.sleep(chance.uniform(1, 2))  # anywhere between two syncs
                    cuts_s.append(time.monotonic())
                    gone = await cut()
                dose.tell(len(cuts_s), load.sent)
        await stack.enter_async_context(Reader(gate, history, "bot"))
        await eventually(lambda: _let_go(gate, history), within_s=30)
    return _score(history, cuts_s)


async def _let_go(gate: Client, history: History) -> bool:
    """Close all windows; whether nothing is left."""
    async for conversation in gate.conversations("bot"):
        await flush(gate, history, ("bot", conversation.conversation))
    stats = await gate.stats()
    return stats.buffered_messages == stats.delivering_batches == stats.retrying_batches == 0


def _score(history: History, cuts_s: list[float]) -> Score:
    """What is owed now is lost; the rest must be sound all the same."""
    rest = History()
    rest.events = [event for event in history.events if not _is_of(event.what, history)]
    sound = tally(rest)
    acknowledged = sound.acknowledged + len(history.owed)
    ages_s = list(_ages_s(history, cuts_s))
    note = f"{len(history.owed) / acknowledged:.1%} lost"
    if ages_s:
        note += f", the oldest acknowledged {max(ages_s):.1f} s before its cut"
    return Score(
        faults=len(cuts_s),
        acknowledged=acknowledged,
        lost=len(history.owed),
        doubled=len(sound.doubled),
        disordered=len(sound.disordered),
        contradictions=(*sound.lost, *sound.doubled, *sound.disordered, *sound.other),
        expected_loss=True,
        note=note,
    )


def _is_of(what: object, history: History) -> bool:
    return isinstance(what, Add) and (what.chat, what.message_id) in history.owed


def _ages_s(history: History, cuts_s: list[float]) -> Iterator[float]:
    """How long each lost message had been acknowledged when the power was cut."""
    for event in history.events:
        if event.phase is Phase.OK and _is_of(event.what, history):
            yield min((cut_s - event.at_s for cut_s in cuts_s if cut_s > event.at_s), default=0)


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
