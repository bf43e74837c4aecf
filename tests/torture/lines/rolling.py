"""Servers that are told to stop and start again, in turn, under load."""

import random
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from tests.end_to_end.traffic import Load, Reader
from tests.support.history import Add, Delivery, History, Phase
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Client

_A_ROUND = 10
_LEASE = timedelta(seconds=20)


async def _restart_in_turn(dose: Dose) -> Score:
    """Clients know both servers, as they do through a load balancer or DNS."""
    chance = random.Random(dose.seed)
    again = 0
    unkept: list[str] = []
    async with StoreProcess() as store, AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                ForkedServer(
                    dose.directory / name,
                    store_url=store.user_url,
                    listen=f"127.0.0.1:{_free_port()}",
                )
            )
            for name in "ab"
        ]
        targets = [f"ipv4:{a.target},{b.target}" for a, b in (servers, servers[::-1])]

        async def a_round(history: History, instance: str, faults: int) -> None:
            nonlocal again
            async with AsyncExitStack() as traffic:
                gates = [await traffic.enter_async_context(Client(target)) for target in targets]
                for gate in gates:
                    await traffic.enter_async_context(Reader(gate, history, instance, lease=_LEASE))
                async with Load(gates, history, instance, producers=16) as load:
                    for n in range(faults):
                        await load.more(chance.randint(1, 2 * dose.between))
                        server = servers[n % 2]
                        code = await server.terminate()
                        if code or "Traceback" in server.output():
                            unkept.append(f"a server ended with {code}: {server.output()}")
                        await server.start()
                await eventually(history.drained, within_s=60)
            failed, repeated = _failed(history), _repeated(history)
            unkept.extend(failed)
            again += repeated

        tallies = await in_rounds(dose, _A_ROUND, a_round)
    tallies[0].other.extend(unkept)
    note = f"{again} deliveries were repeated, each of a batch that was in flight"
    return add_up(tallies, faults=dose.faults, note=note)


def _failed(history: History) -> list[str]:
    """Calls that failed in spite of the client's own retries."""
    failed = sum(
        isinstance(event.what, Add) and event.phase in (Phase.UNKNOWN, Phase.FAIL)
        for event in history.events
    )
    return [f"{failed} adds failed in spite of the client's retries"] if failed else []


def _repeated(history: History) -> int:
    return sum(
        isinstance(event.what, Delivery) and event.what.attempt > 1 for event in history.events
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


LINES = (
    Line(
        "rolling restarts (SIGTERM)",
        _restart_in_turn,
        short=(2, 200),
        long=(100, 50_000),
        expected="exit 0, no call fails, nothing again that was not in flight",
    ),
)
