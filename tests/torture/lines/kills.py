"""kill -9 of servers at random moments, under load."""

import random
from datetime import timedelta

from tests.end_to_end.traffic import Load, Reader
from tests.support.history import History, Tally, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.score import Dose, Line, Score, add_up
from tidegate import Client

_LEASE = timedelta(seconds=1)


async def _one_of_two_servers(dose: Dose) -> Score:
    chance, history = random.Random(dose.seed), History()
    async with (
        StoreProcess() as store,
        Server(dose.directory / "a", store_url=store.url) as victim,
        Server(dose.directory / "b", store_url=store.url) as witness,
        Client(victim.target) as one,
        Client(witness.target) as other,
        Reader(one, history, "bot", lease=_LEASE),
        Reader(other, history, "bot", lease=_LEASE),
    ):
        async with Load([one, other], history, "bot") as load:
            for _ in range(dose.faults):
                await load.more(chance.randint(50, 300))
                await victim.kill()
                await victim.start()
        await eventually(history.drained, within_s=20)
    rounds: list[Tally] = [tally(history)]
    return add_up(rounds, faults=dose.faults)


LINES = (Line("kill -9 of a server", _one_of_two_servers, short=(2, 200), long=(2000, 200_000)),)
