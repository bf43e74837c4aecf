"""What a network does between server and store, under load."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.load import under_load
from tests.torture.proxy import Proxy, Way
from tests.torture.score import Dose, Line, Score

Fault = Callable[[Proxy, random.Random], Awaitable[object]]
_OVERDUE_S = 0.35
"""Longer than the server waits for an answer."""


async def _jitter(proxy: Proxy, chance: random.Random) -> None:
    """Each chunk takes its time; some longer than the deadline."""
    mean_s = chance.choice([0.002, 0.01, 0.05])
    proxy.latency_s = lambda: chance.expovariate(1 / mean_s)
    await asyncio.sleep(chance.uniform(0.05, 0.3))
    proxy.latency_s = None


async def _dropped_replies(proxy: Proxy, chance: random.Random) -> None:
    """The store has done it, nobody learns of it, and the connection ends."""
    proxy.block(Way.BACK)
    await asyncio.sleep(chance.choice([0.01, 0.1, _OVERDUE_S]))
    proxy.reset()
    proxy.unblock()


async def _cut(proxy: Proxy, chance: random.Random) -> None:
    """The connection ends in the middle of a command or of a reply."""
    proxy.cut_after(chance.randint(1, 2000), chance.choice(list(Way)))
    await asyncio.sleep(chance.uniform(0.01, 0.1))


async def _half_open(proxy: Proxy, chance: random.Random) -> None:
    """One direction is black for longer than the deadline; what was held up arrives late."""
    proxy.block(chance.choice(list(Way)))
    await asyncio.sleep(chance.choice([0.1, _OVERDUE_S, 3 * _OVERDUE_S]))
    proxy.unblock()


async def _reset(proxy: Proxy, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0, 0.02))
    proxy.reset()


async def _between_server_and_store(fault: Fault, dose: Dose) -> Score:
    async with (
        StoreProcess() as store,
        Proxy(dose.directory / "p.sock", store.dir / "store.sock") as proxy,
        ForkedServer(dose.directory / "a", store_url=proxy.url, store_timeout="250ms") as server,
    ):

        async def hurt(chance: random.Random) -> None:
            before = proxy.connections
            await fault(proxy, chance)
            if fault is _reset:
                await eventually(lambda: proxy.connections > before)

        return await under_load(dose, [server], hurt, size=100)


_FAULTS = {
    "latency that jitters": (_jitter, "slower, or UNAVAILABLE by the deadline"),
    "replies that are dropped": (_dropped_replies, "the repeat has the same outcome"),
    "cuts in the middle": (_cut, "the repeat has the same outcome"),
    "half-open": (_half_open, "UNAVAILABLE by the deadline, no double work"),
    "resets": (_reset, "sent again, unnoticed"),
}

LINES = tuple(
    Line(
        f"network between server and store: {name}",
        partial(_between_server_and_store, fault),
        short=(2, 100),
        long=(400, 20_000),
        expected=f"{expected}; nothing lost",
    )
    for name, (fault, expected) in _FAULTS.items()
)
