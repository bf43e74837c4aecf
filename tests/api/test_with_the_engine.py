import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.api.conftest import FACTS
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2 as admin
from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate.v1 import delivery_service_pb2 as delivery
from tidegate.v1 import types_pb2 as pb
from tidegate.v1.admin_service_pb2_grpc import AdminServiceStub
from tidegate.v1.buffer_service_pb2_grpc import BufferServiceStub
from tidegate.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from tidegate_server.api.server import ApiServer
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.metrics import Metrics
from tidegate_server.store.memory import MemoryStore


class House:
    """A whole server over the reference store, with windows of 20 ms."""

    def __init__(self, address: str):
        metrics = Metrics()
        self.engine = Engine(MemoryStore(), metrics=metrics)
        policy = WindowPolicy(delay_ms=20, grace_ms=0)
        self.server = ApiServer(
            self.engine,
            listen=[address],
            facts=FACTS,
            metrics=metrics,
            policy=lambda instance: policy,
            fallback=lambda instance: "error",
            max_delay_ms=lambda instance: None,
        )
        self.channel = grpc.aio.insecure_channel(address)
        self.buffer: Any = BufferServiceStub(self.channel)
        self.delivery: Any = DeliveryServiceStub(self.channel)
        self.admin: Any = AdminServiceStub(self.channel)

    async def add(self, *texts: str, conversation: str = "ann", flush: bool = False) -> None:
        for text in texts:
            message = pb.Message(text=text)
            request = buffer.AddMessageRequest(
                instance="bot", conversation=conversation, message=message, flush=flush
            )
            assert (await self.buffer.AddMessage(request)).success

    def subscribe(self, **fields: Any) -> Any:
        return self.delivery.Subscribe(delivery.SubscribeRequest(subscriber_id="worker", **fields))

    def pull(self, **fields: Any) -> Any:
        return self.delivery.Pull(delivery.PullRequest(subscriber_id="php", **fields))

    async def ack(self, batch: pb.Batch, *, only_if_current: bool = False) -> Any:
        request = delivery.AckBatchRequest(
            batch_id=batch.info.batch_id,
            lease_token=batch.lease_token,
            only_if_current=only_if_current,
        )
        return await self.delivery.AckBatch(request)


def texts(batch: pb.Batch) -> list[str]:
    return [message.message.text for message in batch.messages]


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    house = House(f"unix:{folder}/api")
    await house.engine.start()
    await house.server.start()
    yield house
    await house.channel.close()
    await house.server.stop(0)
    await house.engine.stop()


async def test_a_burst_arrives_as_one_batch_and_is_settled(house: House):
    stream = house.subscribe()
    assert (await stream.read()).HasField("opened")
    await house.add("one", "two", "three")
    batch = (await stream.read()).batch
    assert texts(batch) == ["one", "two", "three"]
    assert (await house.ack(batch)).state == pb.BATCH_STATE_COMPLETED
    stats = await house.admin.GetStats(admin.GetStatsRequest())
    assert (stats.subscribers, stats.delivering_batches) == (1, 0)
    assert stats.counters["messages_added_total"] == 3
    stream.cancel()


async def test_a_reply_that_was_overtaken_comes_again_with_the_newer_messages(house: House):
    stream = house.subscribe()
    await stream.read()
    await house.add("one")
    batch = (await stream.read()).batch
    await house.add("two")
    failed = await failure(house.ack(batch, only_if_current=True))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SUPERSEDED")
    again = (await stream.read()).batch
    assert texts(again) == ["one", "two"]
    assert again.info.rebuffer_count == 1
    stream.cancel()


async def test_a_pull_that_does_not_wait_gets_what_is_ready(house: House):
    names = [f"user {n}" for n in range(5)]
    for name in names:
        await house.add("hello", conversation=name, flush=True)
    seen: list[str] = []
    while len(seen) < len(names):
        pulled = await house.pull(wait=Duration(), max_batches=100)
        assert pulled.batches
        for batch in pulled.batches:
            seen.append(batch.info.conversation.conversation)
            await house.ack(batch)
    assert sorted(seen) == names
    assert not (await house.pull(wait=Duration())).batches


async def test_a_client_that_leaves_a_pull_takes_nothing_along(house: House):
    call = house.pull()
    while not len(house.engine.subscribers):  # noqa: ASYNC110  # the engine tells nobody
        await asyncio.sleep(0.001)
    call.cancel()
    await house.add("hello")
    (batch,) = (await house.pull()).batches
    assert batch.info.attempt == 1


async def test_a_drain_ends_streams_and_pulls_and_still_takes_settlements(house: House):
    stream = house.subscribe(instances=["bot"])
    await stream.read()
    pull = house.pull(instances=["other"])
    await house.add("hello")
    batch = (await stream.read()).batch
    draining = asyncio.create_task(house.engine.drain(30))
    closing = (await stream.read()).closing
    assert closing.reason == "the server is shutting down"
    assert await stream.code() is grpc.StatusCode.OK
    assert not (await pull).batches
    await draining
    assert (await house.ack(batch)).state == pb.BATCH_STATE_COMPLETED
    failed = await failure(house.subscribe().read())
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await asyncio.wait_for(house.server.stop(grace=60), 10)
