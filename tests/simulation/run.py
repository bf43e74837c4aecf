"""One stretch of simulated time, and many of them."""

import asyncio
import itertools
import random
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from structlog.testing import capture_logs

from tests.simulation.bot import Bot
from tests.simulation.loop import VirtualLoop
from tests.simulation.town import LEASE_S, SWEEP_S, Server, Town
from tests.simulation.verdict import contradictions

STRETCH_H = 6.0
END_WITHIN_S = 2 * LEASE_S + 3 * SWEEP_S + 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stretch came to. The same seed and hours give the same `trace`."""

    seed: int
    hours: float
    messages: int
    deliveries: int
    faults: int
    trace: str
    contradictions: tuple[str, ...]


def stretch(seed: int, *, hours: float = STRETCH_H) -> Outcome:
    """Simulate some hours, then let the faults end, and judge."""
    dice = random.Random(seed)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, _seeded(dice), capture_logs() as logs:
        town = runner.run(_stretch(dice, hours))
    town.complaints += [
        f"the log has an error: {entry['event']} {entry.get('exc_info', '')!r}"
        for entry in logs
        if entry["log_level"] in ("error", "critical")
    ]
    return Outcome(
        seed,
        town.loop.time() / 3_600,
        town.messages,
        len(town.taken),
        town.weather.faults,
        town.trace.hexdigest(),
        tuple(contradictions(town)),
    )


def stretches(seed: int, hours: float) -> Iterator[Outcome]:
    """Stretches until so many hours are over. Each has a seed of its own, the next number."""
    for number in itertools.count(seed):
        if hours <= 0:
            return
        yield stretch(number, hours=min(hours, STRETCH_H))
        hours -= STRETCH_H


@contextmanager
def _seeded(dice: random.Random) -> Generator[None]:
    """Whatever the server does by chance, it does by these dice."""

    def token_hex(length: int) -> str:
        return f"{dice.getrandbits(8 * length):0{2 * length}x}"

    with (
        patch.object(secrets, "token_hex", token_hex),
        patch.object(random, "uniform", dice.uniform),
    ):
        yield


async def _stretch(dice: random.Random, hours: float) -> Town:
    town = Town(dice, servers=dice.choice((2, 2, 3)))
    for server in town.servers:
        await server.start()
    bots = [Bot(town, f"bot {n}", where, lazy=bool(n % 2)) for n, where in enumerate(_wishes(dice))]
    living = [town.spawn(bot.live()) for bot in bots]
    town.trouble("start")
    people = [town.spawn(_people(town)), town.spawn(_restarts(town)), town.spawn(_weather(town))]
    await asyncio.sleep(hours * 3_600)
    for task in people:
        task.cancel()
    await asyncio.gather(*people, return_exceptions=True)
    await _calm_down(town)
    if not await _quiet_within(town, END_WITHIN_S):
        town.complaints.append("not all was settled in time after the last fault")
    for task in living:
        task.cancel()
    for server in town.servers:
        await server.crash()
    await town.stop()
    return town


def _wishes(dice: random.Random) -> list[frozenset[str]]:
    """Somebody listens to each instance; others to all of them or to one."""
    wishes = [frozenset({"shop 0"}), frozenset({"shop 1"})]
    more = (frozenset[str](), frozenset({"shop 0"}))
    return wishes + [dice.choice(more) for _ in range(dice.randint(0, 2))]


async def _people(town: Town) -> None:
    while True:
        await asyncio.sleep(town.dice.expovariate(1 / 240))
        crowd = town.dice.choices((1, 3, 10), (20, 4, 1))[0]
        for chat in town.dice.sample(town.chats, crowd):
            town.spawn(town.burst(chat))


async def _restarts(town: Town) -> None:
    """A release now and then, in whatever weather."""
    while True:
        await asyncio.sleep(town.dice.expovariate(1 / 1_800))
        town.spawn(_restart(town, town.dice.choice(town.servers)))


async def _restart(town: Town, server: Server) -> None:
    """Best when a batch has been claimed there that nobody has taken yet."""
    for _ in range(200):
        if town.untaken(server):
            break
        await asyncio.sleep(3)
    if server.engine:
        town.trouble("restart", server.number)
        await server.leave()
        await asyncio.sleep(town.dice.uniform(1, 10))
        await server.start()
        town.trouble("restarted", server.number)


async def _weather(town: Town) -> None:
    """Calm for about an hour, and then a storm of some minutes."""
    while True:
        await asyncio.sleep(town.dice.expovariate(1 / 3_000))
        begun_s = town.loop.time()
        try:
            await _storm(town)
        finally:
            town.weather.stormy, town.weather.slowest_s = False, 0.003
            town.calm_since_s = town.loop.time()
            town.troubles.append((begun_s, town.calm_since_s))
            town.note("calm")


async def _storm(town: Town) -> None:
    dice, weather = town.dice, town.weather
    town.trouble("storm")
    weather.stormy = True
    for what in ("dropped", "lost", "late", "doubled", "deaf"):
        setattr(weather, what, dice.choice((0, 0.02, 0.1)))
    weather.slowest_s = dice.choice((0.003, 0.1, 2.0))
    ends_s = town.loop.time() + dice.expovariate(1 / 500)
    while town.loop.time() < ends_s:
        await asyncio.sleep(dice.expovariate(1 / 60))
        town.spawn(_strike(town))


async def _strike(town: Town) -> None:
    dice = town.dice
    server = dice.choice(town.servers)
    match dice.choice(("crash", "crash", "stop", "outage", "outage of all", "jump")):
        case "crash" if server.engine:
            town.trouble("crash", server.number)
            await server.crash()
            await asyncio.sleep(dice.expovariate(1 / 20))
            await server.start()
            town.trouble("up", server.number)
        case "stop" if server.link:
            town.trouble("stop", server.number)
            until_s = server.link.stopped_until_s = town.loop.time() + dice.uniform(5, 90)
            town.troubles.append((town.loop.time(), until_s))
        case "jump":
            town.trouble("jump", server.number)
            server.jump(dice.choice((-1, 1)) * dice.choice((0.05, 1.0, 60.0, 3_600.0)))
        case "outage" | "outage of all" as what:
            struck = [server] if what == "outage" else town.servers
            until_s = town.loop.time() + dice.expovariate(1 / 15)
            for one in struck:
                if one.link:
                    one.link.away_until_s = until_s
            town.trouble(what)
            town.troubles.append((town.loop.time(), until_s))
        case _:
            pass


async def _calm_down(town: Town) -> None:
    """No more faults, and every server up."""
    for server in town.servers:
        if server.link:
            server.link.away_until_s = server.link.stopped_until_s = 0.0
    while not all(server.engine for server in town.servers):  # noqa: ASYNC110 - time is virtual
        await asyncio.sleep(1)


async def _quiet_within(town: Town, seconds: float) -> bool:
    ends_s = town.loop.time() + seconds
    while any(chat.row for chat in town.world.chats.values()):
        if town.loop.time() > ends_s:
            return False
        await asyncio.sleep(1)
    return True
