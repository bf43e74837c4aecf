"""A subscriber with a will of its own."""

import asyncio
from contextlib import suppress

from tests.simulation.town import LEASE_S, Server, Town
from tests.support.history import Delivery, Phase, Received, Settlement
from tidegate_server.core.model import Batch, BatchState, DeliveryChannel, NackAction
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import LeaseLost, NotFound, Superseded, TidegateError, Unavailable
from tidegate_server.sinks.stream import Closing, Subscriber

ROOM = 16
STALE_MS = 3_000
"""A server lets go of a batch that soon after its lease, by its own idea of the store's clock."""
ENDINGS = (
    (None, 0.72),
    ("current", 0.12),
    (NackAction.RETRY, 0.07),
    (NackAction.RELEASE, 0.04),
    (NackAction.REBUFFER, 0.04),
    (NackAction.DEAD_LETTER, 0.01),
)


class Bot:
    """Listens at one server after the other, and settles at any. Lazy ones take one at a time."""

    def __init__(self, town: Town, name: str, instances: frozenset[str], *, lazy: bool):
        self._town = town
        self._name = name
        self._instances = instances
        self._lazy = lazy
        self._work: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Listen for ever."""
        while True:
            up = [server for server in self._town.servers if server.engine]
            if up:
                await self._listen(self._town.dice.choice(up))
            await asyncio.sleep(self._town.dice.uniform(0.05, 1))

    async def _listen(self, server: Server) -> None:
        engine = server.engine
        assert engine
        try:
            subscriber = engine.subscribe(
                f"{self._name}@{server.number}",
                instances=self._instances,
                max_in_flight=ROOM,
                lease_ms=round(LEASE_S * 1_000),
                channel=DeliveryChannel.STREAM,
            )
        except Unavailable:
            return
        task = self._town.spawn(self._read(engine, subscriber))
        server.listeners[subscriber] = task
        await asyncio.wait([task])
        server.listeners.pop(subscriber, None)

    async def _read(self, engine: Engine, subscriber: Subscriber) -> None:
        town = self._town
        while True:
            event = await subscriber.next(None)
            if isinstance(event, Closing):
                break
            if not isinstance(event, Batch):
                continue
            self._took(engine, event)
            if town.weather.stormy and town.dice.random() < 0.03:
                await self._die(engine, subscriber)
                return
            work = town.spawn(self._see_to(event))
            self._work.add(work)
            work.add_done_callback(self._work.discard)
            if self._lazy:
                await asyncio.wait([work])
        await engine.unsubscribe(subscriber)

    async def _die(self, engine: Engine, subscriber: Subscriber) -> None:
        """All that it was at is forgotten; the server finds out in a while."""
        self._town.trouble(self._name, "dies")
        for work in self._work:
            work.cancel()
        await asyncio.sleep(self._town.dice.expovariate(0.2))
        await engine.unsubscribe(subscriber)
        await asyncio.sleep(self._town.dice.expovariate(0.02))

    def _took(self, engine: Engine, batch: Batch) -> None:
        info, town = batch.info, self._town
        over_ms = engine.clock.now_ms() - batch.lease_expires_at_ms
        if over_ms > STALE_MS:
            town.complaints.append(
                f"batch {info.batch_id} was handed out {over_ms} ms after its lease"
            )
        town.taken.add(f"{info.batch_id} {batch.token}")
        town.note(self._name, "has", info.batch_id, info.attempt)
        town.history.deliver(
            Delivery(
                (info.conversation.instance, info.conversation.name),
                info.batch_id,
                info.attempt,
                tuple(
                    Received(m.id, m.sequence, m.body, m.received_at_ms / 1_000)
                    for m in batch.messages
                ),
                info.flush_reason.name,
                info.sealed_at_ms / 1_000,
            ),
            at_s=town.loop.time(),
        )

    async def _see_to(self, batch: Batch) -> None:
        town, dice = self._town, self._town.dice
        if town.weather.stormy and dice.random() < 0.05:
            town.trouble(self._name, "stalls")
            await asyncio.sleep(LEASE_S * dice.uniform(0.9, 2.5))
        else:
            await self._think(batch, dice.expovariate(0.2))
        if dice.random() < 0.1:
            town.spawn(town.burst(batch.info.conversation))
            await asyncio.sleep(dice.expovariate(1))
        actions, weights = zip(*ENDINGS, strict=True)
        await self._settle(batch, dice.choices(actions, weights)[0])

    async def _think(self, batch: Batch, seconds: float) -> None:
        """Work, and extend the lease meanwhile."""
        while seconds > LEASE_S / 2:
            await asyncio.sleep(LEASE_S / 2)
            seconds -= LEASE_S / 2
            if engine := self._town.some_engine():
                with suppress(TidegateError):
                    await engine.extend(batch.info.batch_id, batch.token)
        await asyncio.sleep(seconds)

    async def _settle(self, batch: Batch, action: "NackAction | str | None") -> None:
        """As often as it takes to know what became of it."""
        town, info = self._town, batch.info
        final = not isinstance(action, NackAction)
        settlement = Settlement(info.batch_id, info.attempt, final)
        while True:
            engine = town.some_engine()
            if engine is None:
                await asyncio.sleep(1)
                continue
            operation = town.history.invoke(settlement, at_s=town.loop.time())
            phase = await self._ask(engine, batch, action)
            town.history.end(operation, phase, settlement, at_s=town.loop.time())
            town.note(self._name, info.batch_id, str(action), phase.name)
            if phase is not Phase.UNKNOWN:
                return
            await asyncio.sleep(town.dice.uniform(0.2, 3))

    async def _ask(self, engine: Engine, batch: Batch, action: "NackAction | str | None") -> Phase:
        batch_id, token = batch.info.batch_id, batch.token
        try:
            if isinstance(action, NackAction):
                await engine.nack(batch_id, token, action)
            else:
                settled = await engine.ack(batch_id, token, only_if_current=bool(action))
                assert settled.state is BatchState.COMPLETED
        except (LeaseLost, NotFound, Superseded):
            return Phase.FAIL
        except Unavailable:
            return Phase.UNKNOWN
        return Phase.OK
