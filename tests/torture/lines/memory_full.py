"""A store at its maxmemory: it refuses what is new, and everything else goes on."""

import itertools
import random

from tests.end_to_end.traffic import Reader
from tests.support.history import History
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.forks import ForkedServer
from tests.torture.patience import PatientLoad
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Client

_REFUSED = 20
_A_ROUND = 25


async def _memory_full(dose: Dose) -> Score:
    """In a short dose one version of the store after another, in a long one each many times."""
    chance = random.Random(dose.seed)
    kinds = chance.sample(binaries(), min(dose.faults, len(binaries())))
    turns = itertools.cycle(kinds)

    async def a_round(history: History, instance: str, faults: int) -> None:
        name, binary = next(turns)
        async with (
            StoreProcess(binary) as store,
            store.client() as client,
            ForkedServer(dose.directory / f"{instance}-{name}", store_url=store.user_url) as server,
            Client(server.target) as gate,
            Reader(gate, history, instance),
        ):
            async with PatientLoad([gate], history, instance) as load:
                for _ in range(faults):
                    await load.more(dose.between)
                    await client.config_set("maxmemory", "1")
                    await _refused(load)
                    await eventually(history.drained)
                    await client.config_set("maxmemory", "0")
            await eventually(history.drained)

    size = min(_A_ROUND, -(-dose.faults // len(kinds)))
    tallies = await in_rounds(dose, size, a_round)
    return add_up(tallies, faults=dose.faults, note=", ".join(name for name, _ in kinds))


async def _refused(load: PatientLoad) -> None:
    before = load.refused
    await eventually(lambda: load.refused >= before + _REFUSED)


LINES = (
    Line(
        "store at maxmemory",
        _memory_full,
        short=(2, 200),
        long=(50, 2_000),
        expected="adds refused without a trace, all else drains, nothing lost",
    ),
)
