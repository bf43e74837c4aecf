"""A whole server over the reference store, and what a client does to it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate.v1 import delivery_service_pb2 as delivery
from tidegate.v1 import types_pb2 as pb
from tidegate.v1.admin_service_pb2_grpc import AdminServiceStub
from tidegate.v1.buffer_service_pb2_grpc import BufferServiceStub
from tidegate.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from tidegate_server.api.admin import ServerFacts
from tidegate_server.api.server import ApiServer
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.metrics import Metrics
from tidegate_server.store.memory import MemoryStore

PATIENCE_S = 5.0

FACTS = ServerFacts(
    version="1.2.3",
    replica_id="replica-1",
    started_at_ms=1_700_000_000_000,
    default_policy=WindowPolicy(),
    max_message_bytes=1000,
    max_attempts=4,
    durability="everysec",
    store="valkey 9.1.2, embedded",
    capabilities=("policy-override",),
)


class House:
    """A server with windows of 20 ms. `fallbacks` are those of instances; the others have none."""

    def __init__(
        self, address: str, store: MemoryStore | None = None, *, delay_ms: int = 20, most: int = 100
    ):
        self.metrics = Metrics()
        self.store = store or MemoryStore()
        self.engine = Engine(self.store, metrics=self.metrics, max_subscribers=most)
        self.fallbacks: dict[str, str] = {}
        policy = WindowPolicy(delay_ms=delay_ms, grace_ms=0, max_wait_ms=60_000)
        self.server = ApiServer(
            self.engine,
            listen=[address],
            facts=FACTS,
            metrics=self.metrics,
            policy=lambda instance: policy,
            fallback=lambda instance: self.fallbacks.get(instance, "error"),
            max_delay_ms=lambda instance: None,
        )
        self.channel = grpc.aio.insecure_channel(address)
        self.buffer: Any = BufferServiceStub(self.channel)
        self.delivery: Any = DeliveryServiceStub(self.channel)
        self.admin: Any = AdminServiceStub(self.channel)

    async def start(self) -> None:
        await self.engine.start()
        await self.server.start()

    async def stop(self) -> None:
        await self.channel.close()
        await self.server.stop(0)
        await self.engine.stop()

    async def add(self, *texts: str, conversation: str = "ann", flush: bool = False) -> None:
        for text in texts:
            request = entry(text, conversation, flush=flush)
            assert (await self.buffer.AddMessage(request)).success

    def subscribe(self, **fields: Any) -> Any:
        return self.delivery.Subscribe(delivery.SubscribeRequest(subscriber_id="worker", **fields))

    async def opened(self, **fields: Any) -> Any:
        """A stream that is in force."""
        stream = self.subscribe(**fields)
        assert (await stream.read()).HasField("opened")
        return stream

    def pull(self, **fields: Any) -> Any:
        return self.delivery.Pull(delivery.PullRequest(subscriber_id="php", **fields))

    async def ack(self, batch: pb.Batch, *, only_if_current: bool = False) -> Any:
        request = delivery.AckBatchRequest(
            batch_id=batch.info.batch_id,
            lease_token=batch.lease_token,
            only_if_current=only_if_current,
        )
        return await self.delivery.AckBatch(request)

    async def nack(self, batch: pb.Batch, action: delivery.NackAction.ValueType) -> Any:
        request = delivery.NackBatchRequest(
            batch_id=batch.info.batch_id, lease_token=batch.lease_token, action=action
        )
        return await self.delivery.NackBatch(request)


def entry(
    text: str, conversation: str = "ann", *, name: str = "", instance: str = "bot", **fields: Any
) -> buffer.AddMessageRequest:
    """One message to add; its id is its text unless there is a `name`."""
    message = pb.Message(id=name or text, text=text)
    return buffer.AddMessageRequest(
        instance=instance, conversation=conversation, message=message, **fields
    )


def ref(conversation: str = "ann", instance: str = "bot") -> pb.ConversationRef:
    return pb.ConversationRef(instance=instance, conversation=conversation)


def texts(batch: pb.Batch) -> list[str]:
    return [message.message.text for message in batch.messages]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.001)
