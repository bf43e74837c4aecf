"""All that users and subscribers can do, on every version of the store, while it restarts."""

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections.abc import AsyncGenerator

from tests.end_to_end.traffic import Reader
from tests.support.history import Tally
from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.everything import Bot, User, Wishes
from tests.torture.forks import ForkedServer
from tests.torture.load import LEASE
from tests.torture.score import Dose, Line, Score, add_up
from tidegate import Client

_USERS = 8
_A_ROUND = 10


async def _everything(dose: Dose) -> Score:
    """In a short dose some version of the store, in a long one each many times."""
    chance = random.Random(dose.seed)
    kinds = chance.sample(binaries(), min(dose.faults, len(binaries())))
    size = min(_A_ROUND, -(-dose.faults // len(kinds)))
    tallies: list[Tally] = []
    for done, (name, binary) in zip(
        range(0, dose.faults, size), itertools.cycle(kinds), strict=False
    ):
        async with (
            StoreProcess(binary, appendonly="yes", appendfsync="always") as store,
            ForkedServer(
                dose.directory / f"{done}-{name}", store_url=store.user_url, retry_base="50ms"
            ) as server,
        ):
            restarts = min(size, dose.faults - done)
            tallies.append(await _live(dose, server, store, restarts=restarts, chance=chance))
        dose.tell(done + restarts, sum(one.acknowledged for one in tallies))
    return add_up(tallies, faults=dose.faults, note=", ".join(name for name, _ in kinds))


async def _live(
    dose: Dose, server: ForkedServer, store: StoreProcess, *, restarts: int, chance: random.Random
) -> Tally:
    wishes = Wishes()
    async with Client(server.target) as gate:
        bot = Bot(gate, wishes, seed=chance.getrandbits(32))
        async with Reader(gate, wishes.history, "bot", answer=bot.answer, lease=LEASE):
            async with _users(gate, wishes, chance) as users:
                for _ in range(restarts):
                    await _more(users, dose.between)
                    await store.kill() if chance.random() < 0.5 else await store.stop()
                    await store.start()
            await eventually(wishes.drained, within_s=60)
        await eventually(lambda: _is_empty(gate))
    return wishes.tally()


@contextlib.asynccontextmanager
async def _users(gate: Client, wishes: Wishes, chance: random.Random) -> AsyncGenerator[list[User]]:
    users = [
        User(gate, wishes, "bot", name=f"user-{n}", seed=chance.getrandbits(32))
        for n in range(_USERS)
    ]
    async with asyncio.TaskGroup() as lives:
        for user in users:
            lives.create_task(user.live())
        yield users
        for user in users:
            user.stopping = True


async def _more(users: list[User], messages: int) -> None:
    goal = sum(user.sent for user in users) + messages
    await eventually(lambda: sum(user.sent for user in users) >= goal, within_s=60)


async def _is_empty(gate: Client) -> bool:
    stats = await gate.stats()
    left = (stats.open_buffers, stats.buffered_messages, stats.delivering_batches)
    return not any((*left, stats.retrying_batches, stats.dead_letters))


async def _agreement(dose: Dose) -> Score:
    """As many random steps as there would be messages, on all versions at once, a store each."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--timeout", "0", "-p", "no:cacheprovider"),
        *("--basetemp", str(dose.directory / "pytest"), "tests/store/test_agreement.py"),
        env=os.environ | {"STORES": "all", "STEPS": str(dose.messages)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    failure = (said.decode()[-2_000:],) if process.returncode else ()
    names = ", ".join(name for name, _ in binaries())
    return Score(
        faults=len(binaries()),
        acknowledged=0,
        contradictions=failure,
        note=f"{dose.messages:,} steps, each with the same answer on {names}",
    )


LINES = (
    Line(
        "random steps against the reference store",
        _agreement,
        short=(1, 100),
        long=(5, 100_000),
        in_tests=False,
        expected="every version of the store gives the same answers",
    ),
    Line(
        "every operation at random, while the store restarts",
        _everything,
        short=(1, 300),
        long=(500, 250_000),
        expected="nothing lost, doubled or out of order; edits and deletes hold",
    ),
)
