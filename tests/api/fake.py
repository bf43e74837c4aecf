"""An engine of which a test decides everything, over the reference store."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from types import SimpleNamespace

from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.model import (
    Batch,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.errors import TidegateError
from tidegate_server.sinks.stream import Closing, Superseded
from tidegate_server.store.base import AddResult, Extended, Flushed, Settled
from tidegate_server.store.memory import MemoryStore

AT_ONCE = WindowPolicy(delay_ms=0, grace_ms=0, max_messages=500, max_bytes=3 << 20)


class FakeSubscriber:
    """What the test puts in is what the service is given."""

    def __init__(self, name: str, number: int, most: int, lease_ms: int, channel: DeliveryChannel):
        self.subscriber_id = name
        self.subscription_id = f"subscription-{number}"
        self.max_in_flight = most
        self.lease_ms = lease_ms
        self.channel = channel
        self.in_flight = 0
        self.events: asyncio.Queue[Batch | Superseded | Closing] = asyncio.Queue()
        self.taken = asyncio.Semaphore(0)

    async def next(self, timeout: float | None) -> Batch | Superseded | Closing | None:
        try:
            async with asyncio.timeout(timeout):
                event = await self.events.get()
        except TimeoutError:
            return None
        self.taken.release()
        return event

    async def rests(self) -> None:
        """Wait until nothing more is taken."""
        with suppress(TimeoutError):
            while True:
                await asyncio.wait_for(self.taken.acquire(), 0.3)


class Gate:
    """Where calls of the engine wait."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


class FakeEngine:
    """Settles and adds at once, on the store; `failure` is raised and `gate` waited for instead."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.draining = False
        self.drain_begun = asyncio.Event()
        self.clock = SimpleNamespace(now_ms=lambda: 1_700_000_000_123)
        self.subscribers: list[FakeSubscriber] = []
        self.added: list[NewMessage] = []
        self.nacks: asyncio.Queue[tuple[str, NackAction, str, str, int]] = asyncio.Queue()
        self.gone: asyncio.Queue[FakeSubscriber] = asyncio.Queue()
        self.came: asyncio.Queue[FakeSubscriber] = asyncio.Queue()
        self.failure: Exception | None = None
        self.gate: Gate | None = None
        self.only_if_current = False
        self.lease_ms: int | None = -1
        self.ready: list[Batch | Closing] = []
        self._numbers = count(1)

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        await self._obey()
        self.added += messages
        return await self.store.add(messages)

    async def flush(self, conversation: Conversation) -> Flushed:
        await self._obey()
        return await self.store.flush(conversation)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        await self._obey()
        self.only_if_current = only_if_current
        return await self.store.ack(batch_id, token, only_if_current=only_if_current)

    async def nack(
        self,
        batch_id: str,
        token: str,
        action: NackAction,
        *,
        retry_delay_ms: int = 0,
        reason: str = "",
        message: str = "",
    ) -> Settled:
        await self._obey()
        self.nacks.put_nowait((batch_id, action, reason, message, retry_delay_ms))
        return await self.store.nack(
            batch_id, token, action, retry_delay_ms=retry_delay_ms, reason=reason, message=message
        )

    async def extend(self, batch_id: str, token: str, lease_ms: int | None) -> Extended:
        self.lease_ms = lease_ms
        return await self.store.extend(batch_id, token, lease_ms or 30_000)

    def subscribe(
        self,
        subscriber_id: str,
        *,
        instances: frozenset[str],
        max_in_flight: int,
        lease_ms: int,
        channel: DeliveryChannel,
    ) -> FakeSubscriber:
        if isinstance(self.failure, TidegateError):
            raise self.failure
        subscriber = FakeSubscriber(
            subscriber_id, next(self._numbers), max_in_flight, lease_ms, channel
        )
        for event in self.ready:
            subscriber.events.put_nowait(event)
        self.subscribers.append(subscriber)
        self.came.put_nowait(subscriber)
        return subscriber

    async def unsubscribe(self, subscriber: FakeSubscriber) -> None:
        await asyncio.sleep(0)  # a real one goes to the store, and may be cancelled there
        self.subscribers.remove(subscriber)
        self.gone.put_nowait(subscriber)

    def close_gate(self) -> Gate:
        """Have settlements and adds wait from now on."""
        self.gate = Gate()
        return self.gate

    async def batch(self, conversation: str, *bodies: bytes, payload_bytes: int = 0) -> Batch:
        """A leased batch of messages with these bodies."""
        key = Conversation("bot", conversation)
        await self.store.add(
            [
                NewMessage(key, f"m{n}", body, payload_bytes or len(body), AT_ONCE)
                for n, body in enumerate(bodies)
            ]
        )
        claimed = await self.store.claim(
            key,
            token=f"token of {conversation}",
            lease_ms=30_000,
            subscriber_id="worker",
            channel=DeliveryChannel.STREAM,
        )
        assert claimed.batch is not None
        return claimed.batch

    async def _obey(self) -> None:
        if self.gate is not None:
            self.gate.reached.set()
            await self.gate.open.wait()
        if self.failure is not None:
            raise self.failure


def text_body(text: str) -> bytes:
    """A message as the store keeps it."""
    return pb.BufferedMessage(message=pb.Message(id="m", text=text)).SerializeToString()
