"""Servers, bots and the people who write to them, over one store and in changing weather."""

import asyncio
import hashlib
import itertools
import random
from collections.abc import Coroutine
from typing import Any

from tests.simulation.link import Link, Weather
from tests.support.history import Accepted, Add, Flush, History, Phase
from tidegate_server.core.model import (
    AddOutcome,
    Conversation,
    NewMessage,
    WindowMode,
    WindowPolicy,
)
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import Unavailable
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber
from tidegate_server.store.base import Added
from tidegate_server.store.memory import World

EPOCH_MS = 1_700_000_000_000
LEASE_S, SWEEP_S = 30.0, 30.0
POLICIES = (
    WindowPolicy(),
    WindowPolicy(WindowMode.SLIDING),
    WindowPolicy(delay_ms=3_000, grace_ms=500, max_messages=4),
)


class Server:
    """One server: an engine while it is up, and a clock that is its own."""

    def __init__(self, town: "Town", number: int):
        self.number = number
        self.engine: Engine | None = None
        self.link: Link | None = None
        self.listeners: dict[Subscriber, asyncio.Task[None]] = {}
        self._town = town
        self._drift = town.dice.uniform(-2e-4, 2e-4)
        self._ahead_s = town.dice.uniform(0, 1e5)

    def monotonic(self) -> float:
        return self._town.loop.time() * (1 + self._drift) + self._ahead_s

    def jump(self, seconds: float) -> None:
        self._ahead_s += seconds

    async def start(self) -> None:
        town = self._town
        self.link = Link(town.world, weather=town.weather, dice=town.dice, note=self._note)
        self.engine = Engine(
            self.link,
            metrics=Metrics(),
            lease_ms=round(LEASE_S * 1_000),
            sweep_ms=round(SWEEP_S * 1_000),
            monotonic=self.monotonic,
        )
        await self.engine.start()

    async def crash(self) -> None:
        """Everything that it had in memory is gone at once."""
        engine, link = self.engine, self.link
        assert engine
        assert link
        self.engine = None
        link.cut()
        for task in self.listeners.values():
            task.cancel()
        self.listeners.clear()
        await engine.stop()

    async def leave(self) -> None:
        """Shut down in order."""
        engine, link = self.engine, self.link
        assert engine
        assert link
        self.engine = None
        await engine.drain(10.0)
        self._town.left(self)
        await engine.stop()
        link.cut()

    def _note(self, *what: object) -> None:
        if what != ("asked", "horizon"):
            self._town.note(self.number, *what)


class Town:
    """The store, the servers, and the record of what people and bots saw.

    `note` makes the trace: the same seed has the same one.
    """

    def __init__(self, dice: random.Random, *, servers: int):
        self.loop = asyncio.get_running_loop()
        self.dice = dice
        self.weather = Weather()
        self.history = History()
        self.world = World(now=self.store_ms)
        self.trace = hashlib.sha256()
        self.troubles: list[tuple[float, float]] = []
        self.calm_since_s = 0.0
        self.taken: set[str] = set()
        self.complaints: list[str] = []
        self.servers = [Server(self, number) for number in range(servers)]
        self.chats = [Conversation(f"shop {n % 2}", f"user {n}") for n in range(12)]
        self.messages = 0
        self._names = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()

    def store_ms(self) -> int:
        return EPOCH_MS + round(self.loop.time() * 1_000)

    def note(self, *what: object) -> None:
        self.trace.update(f"{self.loop.time():.6f} {what}\n".encode())

    def trouble(self, *what: object) -> None:
        """Something went wrong, and may delay what is under way."""
        self.weather.faults += 1
        now_s = self.loop.time()
        self.troubles.append((now_s, now_s))
        self.note(*what)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.complaints.append(f"the simulation itself failed: {error!r}")

    def some_engine(self) -> Engine | None:
        up = [server.engine for server in self.servers if server.engine]
        return self.dice.choice(up) if up else None

    def untaken(self, server: Server) -> list[str]:
        """Batches that are leased for subscribers of a server, and not in their hands yet."""
        found = list[str]()
        for chat in self.world.chats.values():
            head = chat.head
            if head is None or head.lease_ms is None:
                continue
            here = head.attempts[-1].subscriber_id.endswith(f"@{server.number}")
            if here and f"{head.batch_id} {head.token}" not in self.taken:
                found.append(head.batch_id)
        return found

    def left(self, server: Server) -> None:
        """After a drain in calm weather, no batch is leased there that no subscriber ever took."""
        if not self.weather.stormy and self.loop.time() - self.calm_since_s > 2 * LEASE_S:
            for batch_id in self.untaken(server):
                self.complaints.append(f"batch {batch_id} was not given back by a drain")

    def policy(self, chat: Conversation) -> WindowPolicy:
        return POLICIES[self.chats.index(chat) % len(POLICIES)]

    async def burst(self, chat: Conversation) -> None:
        """Somebody writes some messages, and perhaps the provider sends one of them again."""
        for _ in range(min(8, 1 + int(self.dice.expovariate(0.6)))):
            name = f"m{next(self._names)}"
            self.spawn(self.send(chat, name))
            if self.dice.random() < 0.05:
                self.spawn(self._again(chat, name))
            await asyncio.sleep(self.dice.expovariate(0.5))

    async def _again(self, chat: Conversation, name: str) -> None:
        await asyncio.sleep(self.dice.expovariate(0.1))
        await self.send(chat, name)

    async def send(self, chat: Conversation, name: str) -> None:
        """Add a message, as often as it takes to know what became of it."""
        policy, body = self.policy(chat), f"payload of {name}".encode()
        flush = self.dice.random() < 0.02
        place = chat.instance, chat.name
        add = Add(place, name, body, policy.delay_ms / 1_000, policy.max_messages, flush)
        message = NewMessage(chat, name, body, len(body), policy, flush)
        while True:
            engine = self.some_engine()
            if engine is None:
                await asyncio.sleep(1)
                continue
            operation = self.history.invoke(add, at_s=self.loop.time())
            if flush:
                # It may close the window in front of it, when a batch is put back.
                self.history.invoke(Flush(place), at_s=self.loop.time())
            try:
                (added,) = await engine.add([message])
            except Unavailable:
                self.history.end(operation, Phase.UNKNOWN, add, at_s=self.loop.time())
                await asyncio.sleep(self.dice.uniform(0.2, 3))
            else:
                assert isinstance(added, Added)
                new = added.outcome is AddOutcome.BUFFERED
                accepted = Accepted(added.sequence, new)
                self.history.end(operation, Phase.OK, add, accepted, at_s=self.loop.time())
                self.messages += new
                self.note("accepted", name, added.sequence)
                return

    async def stop(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
