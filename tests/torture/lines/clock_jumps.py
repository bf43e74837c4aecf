"""Clocks that jump by an hour: nothing is lost, doubled or out of order, and little is late."""

import asyncio
import random
import time

from tests.end_to_end.traffic import Load, Reader, send, settle, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.clocks import WallClock
from tests.torture.load import LEASE
from tests.torture.preload import compiler_missing
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Batch, Client, NackAction

_HOUR_S = 3600
_LONGER = "3h"
"""What is remembered, is remembered by the store's clock, and for longer than it jumps."""
_A_ROUND = 25
_DELIVERED_S = 0.1


async def _store_jumps(dose: Dose) -> Score:
    clock = WallClock(dose.directory)
    store = StoreProcess()
    store.environ = clock.environ
    async with (
        store,
        Server(
            dose.directory,
            store_url=store.user_url,
            retry_base="500ms",
            deduplication=_LONGER,
            retain_status=_LONGER,
        ) as server,
    ):
        return await _jump(dose, server, clock)


async def _server_jumps(dose: Dose) -> Score:
    clock = WallClock(dose.directory)
    async with StoreProcess() as store:
        server = Server(dose.directory, store_url=store.user_url, retry_base="500ms")
        server.environ = clock.environ
        async with server:
            return await _jump(dose, server, clock)


async def _jump(dose: Dose, server: Server, clock: WallClock) -> Score:
    """Back, then anywhere, under load, and how long what was there at a jump takes."""
    chance = random.Random(dose.seed)
    slowest_s = 0.0
    ahead_s: int | None = None

    async def a_round(history: History, instance: str, faults: int) -> None:
        nonlocal ahead_s, slowest_s
        history.clocks_jump = True

        async def answer(batch: Batch) -> None:
            await _answer(history, batch, chance)

        async with (
            Client(server.target) as gate,
            Reader(gate, history, instance, answer=answer, lease=LEASE),
        ):
            async with Load([gate], history, instance, producers=2, policy=window(0.2)) as load:
                for _ in range(faults):
                    await load.more(chance.randint(1, 2 * dose.between))
                    await _begin(gate, history, instance)
                    ahead_s = -_HOUR_S if ahead_s is None else chance.choice(_others(ahead_s))
                    clock.set(ahead_s)
                    slowest_s = max(slowest_s, await _cleared(history))
            await eventually(history.drained, within_s=60)

    tallies = await in_rounds(dose, _A_ROUND, a_round)
    note = f"what was there at a jump was done {slowest_s:.1f} s later at most"
    return add_up(tallies, faults=dose.faults, note=note)


def _others(ahead_s: int) -> list[int]:
    return [other_s for other_s in (-_HOUR_S, 0, _HOUR_S) if other_s != ahead_s]


async def _begin(gate: Client, history: History, instance: str) -> None:
    """Have conversations in which nobody writes any more in every state that has a time."""
    count = len(history.events)
    for place, delay_s in ((place, delay_s) for delay_s in (0, 0.5) for place in range(20)):
        chat = instance, f"quiet {count} {place} {delay_s}"
        await send(gate, history, chat, " ".join(chat), policy=window(delay_s))
    await asyncio.sleep(_DELIVERED_S)


async def _answer(history: History, batch: Batch, chance: random.Random) -> None:
    """Most are settled. Of the others some wait for a retry, and some for the lease's end."""
    fate = chance.random() if batch.attempt == 1 else 1
    if fate < 0.2:
        await settle(history, batch, nack=NackAction.RETRY)
    elif fate > 0.4:
        await settle(history, batch)


async def _cleared(history: History) -> float:
    """Wait until all that is owed now is settled. How many seconds that took."""
    begun_s, owed = time.monotonic(), set(history.owed)
    await eventually(lambda: not owed & history.owed, within_s=60)
    return time.monotonic() - begun_s


LINES = (
    Line(
        "the store's clock jumps by an hour",
        _store_jumps,
        short=(1, 100),
        long=(200, 20_000),
        missing=compiler_missing,
        expected="safety holds, what was there is done in seconds",
    ),
    Line(
        "a server's clock jumps by an hour",
        _server_jumps,
        short=(1, 100),
        long=(100, 10_000),
        missing=compiler_missing,
        in_tests=False,
        expected="nothing happens",
    ),
)
