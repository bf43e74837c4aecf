"""Every point at which a server can die, one after the other."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from redis import Redis

from tests.end_to_end.traffic import Reader, send, settle, window
from tests.support.audit import contradictions
from tests.support.history import Add, Delivery, History, Phase, Tally, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.proxy import Proxy, Way
from tests.torture.score import Dose, Line, Score, add_up
from tidegate import AlreadySealed, Batch, Client, DeadlineExceeded, NackAction, Unavailable
from tidegate_server.store.keys import Keys

_LEASE = timedelta(seconds=1)
_AT_A_TIME = 4
_WINDOW = window(0.04)
_OTHERWISE = {
    "nacked": NackAction.RETRY,
    "rebuffered": NackAction.REBUFFER,
    "given up": NackAction.DEAD_LETTER,
}
"""What is done with the first batch of a conversation; the others are acknowledged."""


class Points:
    """Counts what passes by, and lets the server die at one of the points."""

    def __init__(self, proxies: list[Proxy], server: Server):
        self.passed = 0
        self._deadly: int | None = None
        self._server = server
        self.died = asyncio.Event()
        for proxy in proxies:
            proxy.watch = self._pass

    def die_at(self, number: int) -> None:
        """Begin to count. The first point is number 0."""
        self.passed, self._deadly = 0, number

    def _pass(self, way: Way, arrived: bool) -> None:
        if self.passed == self._deadly:
            self._server.strike()
            self.died.set()
        self.passed += 1


class Stage:
    """A store, a server, and proxies before both. Used again and again, each time emptied."""

    def __init__(self, directory: Path, store: StoreProcess):
        directory.mkdir()
        self._store = store
        self._to_store = Proxy(directory / "s.sock", store.dir / "store.sock")
        self.server = ForkedServer(
            directory / "server", store_url=self._to_store.url, retry_base="20ms"
        )
        self._to_server = Proxy(directory / "c.sock", directory / "server" / "gate.sock")
        self.proxies = [self._to_store, self._to_server]
        self.address = self._to_server.address

    async def tell(self, deadly: int | None) -> tuple[int, bool, Tally]:
        """Tell the story, in which the server dies at a point: points, whether it died, history."""
        history = History()
        with Redis(unix_socket_path=str(self._store.dir / "store.sock")) as redis:
            redis.flushall()
            await self.server.start()
            points = Points(self.proxies, self.server)
            again = asyncio.create_task(self._start_again(points))
            async with Client(self.address) as gate:
                points.die_at(-1 if deadly is None else deadly)
                unkept = await _story(gate, history)
                passed = points.passed
            if points.died.is_set():
                await again
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)
            for proxy in self.proxies:
                proxy.watch = None
            await self.server.kill()
            found = tally(history)
            found.other.extend([*unkept, *contradictions(redis, Keys("tg"))])
        return passed, points.died.is_set(), found

    async def _start_again(self, points: Points) -> None:
        await points.died.wait()
        await self.server.kill()
        await self.server.start()


async def _story(gate: Client, history: History) -> list[str]:
    """All ways of a message, one conversation for each. Returns promises that were not kept."""
    answered: set[str] = set()

    async def answer(batch: Batch) -> None:
        action = _OTHERWISE.get(batch.conversation)
        if batch.conversation in answered and action is not NackAction.DEAD_LETTER:
            action = None
        if await settle(history, batch, nack=action):
            answered.add(batch.conversation)

    async with Reader(gate, history, "bot", answer=answer, lease=_LEASE):
        for chat in ("acked", *_OTHERWISE):
            await send(gate, history, ("bot", chat), "m1", policy=_WINDOW)
        amended = await _amend(gate, history, ("bot", "acked"), "m1")
        for chat in ("acked", "nacked", "rebuffered"):
            await send(gate, history, ("bot", chat), "m2", policy=_WINDOW)
        with contextlib.suppress(TimeoutError):  # what is still owed is lost, and counted
            await eventually(history.drained, within_s=30)
        letters = await _dead_letters(gate)
    unkept = [] if letters == 1 else [f"there are {letters} dead letters and not 1"]
    if amended and not _came_amended(history):
        unkept.append("the amendment of m1 was acknowledged and got lost")
    return unkept


async def _amend(gate: Client, history: History, chat: tuple[str, str], name: str) -> bool:
    """Amend a message that is still in its buffer. Whether that was acknowledged."""
    add = Add(chat, name, f"{name} amended", 0.04)
    history.end(history.invoke(add), Phase.UNKNOWN, add)
    while True:
        try:
            await gate.amend(*chat, name, f"{name} amended")
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(0.02)
        except AlreadySealed:
            return False
        else:
            return True


def _came_amended(history: History) -> bool:
    return all(
        message.payload == "m1 amended"
        for event in history.events
        if isinstance(event.what, Delivery) and event.what.chat == ("bot", "acked")
        for message in event.what.messages
        if message.message_id == "m1"
    )


async def _dead_letters(gate: Client) -> int:
    while True:
        try:
            return len([letter async for letter in gate.dead_letters("bot")])
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(0.02)


def _name_the_point(found: Tally, point: int) -> None:
    for sentences in (found.lost, found.doubled, found.disordered, found.other):
        sentences[:] = [f"{said} (the server died at point {point})" for said in sentences]


@asynccontextmanager
async def _stages(dose: Dose, number: int) -> AsyncGenerator[list[Stage]]:
    async with AsyncExitStack() as stack:
        stages: list[Stage] = []
        for n in range(number):
            store = await stack.enter_async_context(StoreProcess())
            stage = Stage(dose.directory / f"stage{n}", store)
            for proxy in stage.proxies:
                await stack.enter_async_context(proxy)
            stages.append(stage)
        yield stages


async def _each_point(dose: Dose) -> Score:
    """Count the points of the story, then tell it once for each, over and over for a large dose."""
    tallies: list[Tally] = []
    reached = 0
    async with _stages(dose, min(_AT_A_TIME, dose.faults)) as stages:
        total, _, first = await stages[0].tell(None)
        tallies.append(first)
        passes, rest = divmod(dose.faults, total)
        points = [*range(total)] * passes + random.Random(dose.seed).sample(range(total), rest)

        async def tell_on(stage: Stage) -> None:
            nonlocal reached
            while points:
                point = points.pop()
                _, died, found = await stage.tell(point)
                reached += died
                _name_the_point(found, point)
                tallies.append(found)
                dose.tell(reached, sum(one.acknowledged for one in tallies))

        async with asyncio.TaskGroup() as group:
            for stage in stages:
                group.create_task(tell_on(stage))
    note = f"the story has {total} points, before and after each send and receive on both sides"
    return add_up(tallies, faults=reached, note=note)


LINES = (
    Line(
        "kill -9 of a server, at every point",
        _each_point,
        short=(3, 1),
        long=(600, 1),
        expected="the lease runs out, the same batch comes again; nothing lost",
    ),
)
