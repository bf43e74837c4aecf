"""A server's link to the store: what it asks may be slow, be lost, come twice, or come too late."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from tidegate_server.core.model import (
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.errors import StoreUnavailable, TidegateError
from tidegate_server.store.base import AddResult, Claimed, Due, Extended, Horizon, Settled, Status
from tidegate_server.store.memory import MemoryStore, World
from tidegate_server.store.signals import Notice

T = TypeVar("T")

PATIENCE_S = 5.0
"""How long a server waits for an answer."""


@dataclass(slots=True)
class Weather:
    """What may go wrong at the moment, as chances of a call; nothing in calm weather."""

    stormy: bool = False
    dropped: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    deaf: float = 0.0
    slowest_s: float = 0.003
    faults: int = 0


class Link(MemoryStore):
    """The reference store as one server reaches it.

    `dead`: the server is. `stopped_until_s`: it is stopped, and reads no answers till then.
    """

    def __init__(
        self,
        world: World,
        *,
        weather: Weather,
        dice: random.Random,
        note: Callable[..., None],
    ):
        super().__init__(world)
        self.dead = False
        self.away_until_s = 0.0
        self.stopped_until_s = 0.0
        self._weather = weather
        self._dice = dice
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._sent_s = self._heard_s = 0.0

    def cut(self) -> None:
        """The server is dead: it gets no answers, and hears nothing."""
        self.dead = True
        self.world.replicas.remove(self._handlers)
        self._handlers = []

    async def _ask(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """One call. In its order with the others of this server, as on one connection."""
        if self._loop.time() < self.away_until_s:
            self._note("away", what)
            await asyncio.sleep(self._delay_s())
            raise StoreUnavailable("the store cannot be reached")
        fate = self._fate()
        if fate:
            self._weather.faults += 1
            self._note(fate, what)
        if fate in ("dropped", "late"):
            if fate == "late":
                self._later(work, PATIENCE_S * self._dice.uniform(0.5, 3))
            await asyncio.sleep(PATIENCE_S)
            raise StoreUnavailable("no answer came", maybe_done=True)
        self._sent_s = max(self._sent_s, self._loop.time() + self._delay_s())
        try:
            await self._at(self._sent_s)
        except asyncio.CancelledError:
            if self._dice.random() < 0.5:
                self._later(work, 0.0)
            raise
        self._note("asked", what)
        if fate == "doubled":
            self._later(work, self._dice.uniform(0, 20))
        answer = await work()
        if fate == "lost":
            await asyncio.sleep(PATIENCE_S)
            raise StoreUnavailable("the answer was lost", maybe_done=True)
        await self._heard()
        return answer

    async def _heard(self) -> None:
        """The answer comes, after those before it, and not while the server is stopped."""
        self._heard_s = max(self._heard_s + 1e-6, self._loop.time() + self._delay_s())
        await self._at(self._heard_s)
        while self._loop.time() < self.stopped_until_s:
            self._heard_s = max(self._heard_s + 1e-6, self.stopped_until_s)
            await self._at(self._heard_s)
        if self.dead:
            raise StoreUnavailable("the server is dead", maybe_done=True)

    def _fate(self) -> str:
        weather = self._weather
        if not weather.stormy:
            return ""
        dice = self._dice.random()
        for fate in ("dropped", "lost", "late", "doubled"):
            chance: float = getattr(weather, fate)
            if dice < chance:
                return fate
            dice -= chance
        return ""

    def _delay_s(self) -> float:
        return self._dice.uniform(0.0002, self._weather.slowest_s)

    async def _at(self, when_s: float) -> None:
        await asyncio.sleep(when_s - self._loop.time())

    def _later(self, work: Callable[[], Awaitable[Any]], after_s: float) -> None:
        """Have a call arrive when nobody waits for its answer."""

        async def arrive() -> None:
            self._note("arrived")
            with suppress(TidegateError):
                await work()

        def begin() -> None:
            # The reference store answers at once: one step runs it to its end.
            with suppress(StopIteration):
                arrive().send(None)

        self._loop.call_later(after_s, begin)

    async def tell(self, notices: Sequence[Notice]) -> None:
        if self.dead or self._loop.time() < self.away_until_s:
            return
        if self._weather.stormy and self._dice.random() < self._weather.deaf:
            self._weather.faults += 1
            self._note("unheard")
            return
        await super().tell(notices)

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        return await self._ask("add", lambda: super(Link, self).add(messages))

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        def work() -> Awaitable[Claimed]:
            return super(Link, self).claim(
                conversation,
                token=token,
                lease_ms=lease_ms,
                subscriber_id=subscriber_id,
                channel=channel,
            )

        return await self._ask("claim", work)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        return await self._ask(
            "ack", lambda: super(Link, self).ack(batch_id, token, only_if_current=only_if_current)
        )

    async def nack(
        self,
        batch_id: str,
        token: str,
        action: NackAction,
        *,
        retry_delay_ms: int = 0,
        reason: str = "NACKED",
        message: str = "",
    ) -> Settled:
        return await self._ask(
            "nack",
            lambda: super(Link, self).nack(
                batch_id, token, action, retry_delay_ms=retry_delay_ms, reason=reason
            ),
        )

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        return await self._ask(
            "extend", lambda: super(Link, self).extend(batch_id, token, lease_ms)
        )

    async def expire(self, conversation: Conversation) -> Settled | None:
        return await self._ask("expire", lambda: super(Link, self).expire(conversation))

    async def status(self, conversation: Conversation) -> Status:
        return await self._ask("status", lambda: super(Link, self).status(conversation))

    async def horizon(self, *, limit: int) -> Horizon:
        return await self._ask("horizon", lambda: super(Link, self).horizon(limit=limit))

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        return await self._ask("due", lambda: super(Link, self).due(instance, limit=limit))
