"""Traffic through servers, and a fault again and again in the midst of it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

from tests.end_to_end.traffic import Load, Reader
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import eventually
from tests.torture.score import Dose, Score, add_up, in_rounds
from tidegate import Client

LEASE = timedelta(seconds=1)
_LONGEST_PAUSE_S = 0.03

Fault = Callable[[random.Random], Awaitable[object]]


async def under_load(
    dose: Dose, servers: Sequence[Server], fault: Fault, *, size: int = 25, producers: int = 16
) -> Score:
    """Take the dose in rounds of `size` faults, at random moments. Every server has a subscriber
    and a share of the producers.
    """
    chance = random.Random(dose.seed)

    async def a_round(history: History, instance: str, faults: int) -> None:
        async with AsyncExitStack() as stack:
            gates = [await stack.enter_async_context(Client(server.target)) for server in servers]
            for gate in gates:
                await stack.enter_async_context(Reader(gate, history, instance, lease=LEASE))
            async with Load(gates, history, instance, producers=producers) as load:
                for _ in range(faults):
                    await load.more(chance.randint(1, 2 * dose.between))
                    await asyncio.sleep(chance.uniform(0, _LONGEST_PAUSE_S))
                    await fault(chance)
                await load.more(1)
            await eventually(history.drained, within_s=30)

    return add_up(await in_rounds(dose, size, a_round), faults=dose.faults)
