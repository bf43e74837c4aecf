"""A store at its maxmemory: it refuses what is new, and everything else goes on."""

import random
from pathlib import Path

from tests.end_to_end.traffic import Reader
from tests.support.history import History, Tally, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.patience import PatientLoad
from tests.torture.score import Dose, Line, Score, add_up
from tidegate import Client

_REFUSED = 20


async def _memory_full(dose: Dose) -> Score:
    """On every version of the store that the number of faults reaches."""
    chance = random.Random(dose.seed)
    kinds = chance.sample(binaries(), min(dose.faults, len(binaries())))
    rounds = [
        await _round(dose.directory / name, binary, dose.faults // len(kinds), dose.messages)
        for name, binary in kinds
    ]
    return add_up(rounds, faults=dose.faults, note=", ".join(name for name, _ in kinds))


async def _round(directory: Path, binary: Path, times: int, messages: int) -> Tally:
    history = History()
    async with (
        StoreProcess(binary) as store,
        store.client() as client,
        Server(directory, store_url=store.url) as server,
        Client(server.target) as gate,
        Reader(gate, history, "bot"),
    ):
        async with PatientLoad([gate], history, "bot") as load:
            for _ in range(times):
                await load.more(messages // times)
                await client.config_set("maxmemory", "1")
                before = load.refused
                await eventually(lambda seen=before: load.refused >= seen + _REFUSED)
                await eventually(history.drained)
                await client.config_set("maxmemory", "0")
        await eventually(history.drained)
    return tally(history)


LINES = (
    Line(
        "store at maxmemory",
        _memory_full,
        short=(2, 200),
        long=(50, 2_000),
        expected="adds refused without a trace, all else drains, nothing lost",
    ),
)
