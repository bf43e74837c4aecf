"""kill -9 of servers at random moments, under load."""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from datetime import timedelta

from tests.end_to_end.traffic import Load, Reader, send, settle, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer, nursery
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Batch, Client

LEASE = timedelta(seconds=1)
_A_ROUND = 50
_LONGEST_PAUSE_S = 0.05
_HELD = 20


async def _kill_in_turn(dose: Dose) -> Score:
    """Two servers on one store; either is killed, and starts again beside the traffic."""
    chance = random.Random(dose.seed)
    with nursery(dose.directory / "nursery") as home:
        async with StoreProcess() as store, AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(
                    ForkedServer(home, dose.directory / name, store_url=store.url)
                )
                for name in "ab"
            ]

            async def a_round(history: History, instance: str, faults: int) -> None:
                await _killed_under_load(
                    chance, servers, history, instance, faults=faults, between=dose.between
                )

            tallies = await in_rounds(dose, _A_ROUND, a_round)
    return add_up(tallies, faults=dose.faults)


async def _killed_under_load(
    chance: random.Random,
    servers: list[ForkedServer],
    history: History,
    instance: str,
    *,
    faults: int,
    between: int,
) -> None:
    """Kill one after the other at a random moment; the one that is down starts meanwhile."""
    starts: dict[Server, asyncio.Task[Server]] = {}
    async with AsyncExitStack() as stack:
        gates = [await stack.enter_async_context(Client(server.target)) for server in servers]
        for gate in gates:
            await stack.enter_async_context(Reader(gate, history, instance, lease=LEASE))
        async with Load(gates, history, instance, producers=16) as load:
            for _ in range(faults):
                victim = chance.choice(servers)
                if victim in starts:
                    await starts[victim]
                await load.more(chance.randint(1, 2 * between))
                await asyncio.sleep(chance.uniform(0, _LONGEST_PAUSE_S))
                await victim.kill()
                starts[victim] = asyncio.create_task(victim.start())
            await asyncio.gather(*starts.values())
        await eventually(history.drained, within_s=30)


async def _come_again(dose: Dose) -> Score:
    """A server dies with leased batches; the other one has them again when the leases are over."""
    late_s: list[float] = []
    with nursery(dose.directory / "nursery") as home:
        async with (
            StoreProcess() as store,
            ForkedServer(home, dose.directory / "a", store_url=store.url) as victim,
            ForkedServer(home, dose.directory / "b", store_url=store.url) as witness,
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
        short=(12, 1000),
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
