"""kill -9 of servers at random moments, under load."""

import asyncio
import random
import time

from tests.end_to_end.traffic import Reader, send, settle, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.load import LEASE, under_load
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Batch, Client

_HELD = 20


async def _kill_in_turn(dose: Dose) -> Score:
    """Two servers on one store; either is killed, and starts again beside the traffic."""
    starts: dict[Server, asyncio.Task[Server]] = {}
    async with (
        StoreProcess() as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as one,
        ForkedServer(dose.directory / "b", store_url=store.user_url) as other,
    ):

        async def fault(chance: random.Random) -> None:
            victim = chance.choice([one, other])
            if victim in starts:
                await starts[victim]
            await victim.kill()
            starts[victim] = asyncio.create_task(victim.start())

        score = await under_load(dose, [one, other], fault, size=50, producers=6)
        await asyncio.gather(*starts.values())
    return score


async def _come_again(dose: Dose) -> Score:
    """A server dies with leased batches; the other one has them again when the leases are over."""
    late_s: list[float] = []
    async with (
        StoreProcess() as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as victim,
        ForkedServer(dose.directory / "b", store_url=store.user_url) as witness,
    ):

        async def a_round(history: History, instance: str, _: int) -> None:
            late_s.append(await _held_and_orphaned(victim, witness, history, instance))
            await victim.start()

        tallies = await in_rounds(dose, 1, a_round)
    note = f"a leased batch came again at most {max(late_s):.2f} s after its lease had run out"
    return add_up(tallies, faults=dose.faults, note=note)


async def _held_and_orphaned(
    victim: Server, witness: Server, history: History, instance: str
) -> float:
    """The longest time from a lease's end to the batch's second delivery, in seconds."""
    held: dict[str, float] = {}
    late_s: list[float] = []

    async def hold(batch: Batch) -> None:
        held[batch.id] = time.monotonic()

    async def settle_late(batch: Batch) -> None:
        late_s.append(time.monotonic() - held[batch.id] - LEASE.total_seconds())
        await settle(history, batch)

    async with Client(victim.target) as one, Client(witness.target) as other:
        async with Reader(one, history, instance, answer=hold, lease=LEASE):
            for n in range(_HELD):
                await send(one, history, (instance, f"user {n}"), "m", policy=window(0.02))
            await eventually(lambda: len(held) == _HELD)
            await victim.kill()
        async with Reader(other, history, instance, answer=settle_late, lease=LEASE):
            await eventually(history.drained, within_s=20)
    return max(late_s)


LINES = (
    Line(
        "kill -9 of a server, at random",
        _kill_in_turn,
        short=(6, 300),
        long=(2000, 200_000),
        expected="nothing lost, in two batches or out of order",
    ),
    Line(
        "kill -9 of a server that has leased batches",
        _come_again,
        short=(1, 20),
        long=(30, 600),
        expected="the same batches again when their leases are over",
    ),
)
