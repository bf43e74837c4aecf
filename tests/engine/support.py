"""Engines over one reference store, each seeing it through a store of its own that is watched."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager

from tidegate_server.core.model import (
    Batch,
    Conversation,
    DeliveryChannel,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import StoreUnavailable
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber, Superseded
from tidegate_server.store.base import Claimed, Due, Horizon, Settled
from tidegate_server.store.memory import MemoryStore
from tidegate_server.store.memory.state import World
from tidegate_server.store.signals import LiveEvent, Notice

SOON = WindowPolicy(delay_ms=30, grace_ms=0)
NOW = WindowPolicy(delay_ms=0, grace_ms=0)
LATER = WindowPolicy(delay_ms=60_000, grace_ms=0)
PATIENCE_S = 3.0

_ids = itertools.count()


def message(name: str, *, instance: str = "a", policy: WindowPolicy = SOON) -> NewMessage:
    return NewMessage(Conversation(instance, name), f"m{next(_ids)}", b"hello", 5, policy)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.001)


async def taken(subscriber: Subscriber) -> Batch:
    """The next batch, whatever hints come before it."""
    while isinstance(event := await subscriber.next(PATIENCE_S), Superseded):
        pass
    assert isinstance(event, Batch), event
    return event


async def hinted(subscriber: Subscriber) -> Superseded:
    """The next event, which must be a hint."""
    event = await subscriber.next(PATIENCE_S)
    assert isinstance(event, Superseded), event
    return event


class WatchedStore(MemoryStore):
    """Counts what it is asked, and is away or slow when a test says so."""

    def __init__(self, world: World):
        super().__init__(world)
        self.asked = Counter[str]()
        self.told: list[Notice] = []
        self.tokens: list[str] = []
        self.away = False
        self.deaf = False
        self.loses_claims = 0
        self.gate: asyncio.Event | None = None
        self.bug: Exception | None = None
        self.publishes: asyncio.Event | None = None
        self.on_publish: Callable[[Sequence[LiveEvent]], None] = lambda _: None

    async def _ask(self, name: str) -> None:
        self.asked[name] += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("the store cannot be reached")

    async def tell(self, notices: Sequence[Notice]) -> None:
        self.asked["tell"] += 1
        self.told += notices
        if not self.deaf:
            await super().tell(notices)

    async def publish(self, events: Sequence[LiveEvent]) -> None:
        if self.publishes:
            await self.publishes.wait()
        self.on_publish(events)
        await super().publish(events)

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        await self._ask("claim")
        self.tokens.append(token)
        claimed = await super().claim(
            conversation,
            token=token,
            lease_ms=lease_ms,
            subscriber_id=subscriber_id,
            channel=channel,
        )
        if self.gate:
            await self.gate.wait()
        if self.loses_claims:
            self.loses_claims -= 1
            raise StoreUnavailable("the answer was lost", maybe_done=True)
        return claimed

    async def horizon(self, *, limit: int) -> Horizon:
        await self._ask("horizon")
        if self.bug:
            bug, self.bug = self.bug, None
            raise bug
        return await super().horizon(limit=limit)

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        await self._ask("due")
        return await super().due(instance, limit=limit)

    async def expire(self, conversation: Conversation) -> Settled | None:
        await self._ask("expire")
        if conversation.name == "poison":
            raise ValueError("this one cannot be read")
        return await super().expire(conversation)


class Server:
    """One server of a test: its engine, its metrics and its view of the store."""

    def __init__(self, world: World, *, sweep_ms: int, most: int, events: bool):
        self.store = WatchedStore(world)
        self.metrics = Metrics()
        self.engine = Engine(
            self.store,
            metrics=self.metrics,
            max_subscribers=most,
            sweep_ms=sweep_ms,
            events=events,
        )

    def subscribe(
        self, *instances: str, most: int = 8, lease_ms: int = 30_000, name: str = "worker"
    ) -> Subscriber:
        return self.engine.subscribe(
            name,
            instances=frozenset(instances),
            max_in_flight=most,
            lease_ms=lease_ms,
            channel=DeliveryChannel.STREAM,
        )

    async def add(self, *names: str, instance: str = "a", policy: WindowPolicy = SOON) -> None:
        await self.engine.add([message(name, instance=instance, policy=policy) for name in names])

    async def ack(self, batch: Batch) -> Settled:
        return await self.engine.ack(batch.info.batch_id, batch.token)


@asynccontextmanager
async def servers(
    count: int = 1,
    *,
    sweep_ms: int = 60_000,
    retry: RetryPolicy | None = None,
    most: int = 1_000,
    events: Sequence[bool] = (),
):
    """Servers that have begun; they sweep at the start, and then as seldom as the test wants."""
    world = World(retry=retry or RetryPolicy())
    publishes = [*events, *[True] * (count - len(events))]
    running = [Server(world, sweep_ms=sweep_ms, most=most, events=on) for on in publishes]
    for server in running:
        await server.engine.start()
    await until(lambda: all(server.store.asked["horizon"] for server in running))
    try:
        yield running
    finally:
        for server in running:
            await server.engine.stop()
