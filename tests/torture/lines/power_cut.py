"""Power cuts: the store dies, and of its file only that stays which had been put on the disk."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from tests.end_to_end.traffic import Load, Reader, flush, window
from tests.support.history import Add, History, Phase, Tally, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.disk import Disk
from tests.torture.preload import compiler_missing
from tests.torture.score import Dose, Line, Score, add_up
from tidegate import Client

_LEASE = timedelta(seconds=1)
_KEPT = window(600)
"""Nothing is delivered before the cuts are over, so what is lost is lost messages."""


async def _cut_at_fsync(dose: Dose) -> Score:
    """On every version of the store that the number of cuts reaches."""
    random.seed(dose.seed)
    kinds = _some(binaries(), dose)
    tallies: list[Tally] = []
    for place, (name, binary) in enumerate(kinds):
        directory = dose.directory / name
        directory.mkdir()
        cuts = len(range(place, dose.faults, len(kinds)))
        tallies.append(await _round_at_fsync(directory, binary, cuts, dose.messages // len(kinds)))
    return add_up(tallies, faults=dose.faults, note=", ".join(name for name, _ in kinds))


def _some(kinds: list[tuple[str, Path]], dose: Dose) -> list[tuple[str, Path]]:
    return random.sample(kinds, min(len(kinds), max(1, dose.faults // 2)))


async def _round_at_fsync(directory: Path, binary: Path, cuts: int, messages: int) -> Tally:
    history = History()
    disk = Disk(directory)
    async with (
        _store(disk, "always", binary) as store,
        Server(directory, store_url=store.url, durability="fsync") as server,
        Client(server.target) as gate,
        Reader(gate, history, "bot", lease=_LEASE),
    ):
        async with Load([gate], history, "bot") as load:
            for _ in range(cuts):
                await load.more(messages // (cuts + 1))
                await store.kill()
                disk.cut(store.dir)
                await store.start()
            await load.more(messages // (cuts + 1))
        await eventually(history.drained, within_s=30)
    return tally(history)


def _store(disk: Disk, appendfsync: str, binary: Path | None = None) -> StoreProcess:
    return StoreProcess(
        binary,
        environ=disk.environ,
        appendonly="yes",
        appendfsync=appendfsync,
        auto_aof_rewrite_percentage="0",
    )


async def _cut_at_everysec(dose: Dose) -> Score:
    """A store's own `everysec`."""
    disk = Disk(dose.directory)
    async with (
        _store(disk, "everysec") as store,
        Server(dose.directory, store_url=store.url, durability="everysec") as server,
    ):

        async def cut() -> None:
            await store.kill()
            disk.cut(store.dir)
            await store.start()

        return await _losses(dose, server, cut)


async def _cut_embedded(dose: Dose) -> Score:
    """The embedded store, whose file its server syncs; both die."""
    disk = Disk(dose.directory)
    async with Server(dose.directory, environ=disk.environ) as server:

        async def cut() -> None:
            server.pause()  # or it would start the store again
            os.kill(server.store_pid(), signal.SIGKILL)
            await server.kill()
            await eventually(lambda: not server.processes())
            disk.cut(server.dir / "data")
            await server.start()

        return await _losses(dose, server, cut)


async def _losses(dose: Dose, server: Server, cut: Callable[[], Awaitable[None]]) -> Score:
    """Add, cut, add, cut; then see what comes out."""
    random.seed(dose.seed)
    history = History()
    cuts_s: list[float] = []
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(Client(server.target))
        async with Load([gate], history, "bot", producers=2, policy=_KEPT) as load:
            for _ in range(dose.faults):
                await load.more(dose.messages // dose.faults)
                await asyncio.sleep(random.uniform(1, 2))  # anywhere between two syncs
                cuts_s.append(time.monotonic())
                await cut()
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
        "power cut, appendfsync always",
        _cut_at_fsync,
        short=(2, 300),
        long=(100, 20_000),
        missing=compiler_missing,
    ),
    Line(
        "power cut, appendfsync everysec",
        _cut_at_everysec,
        short=(1, 300),
        long=(20, 10_000),
        missing=compiler_missing,
    ),
    Line(
        "power cut, embedded store",
        _cut_embedded,
        short=(1, 300),
        long=(20, 10_000),
        missing=compiler_missing,
    ),
)
