from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details

from tests.api.conftest import Rig
from tests.api.fake import text_body
from tests.api.status import failure
from tidegate.v1 import delivery_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.model import DeliveryChannel, NackAction
from tidegate_server.errors import StoreUnavailable, TooManySubscribers
from tidegate_server.sinks.stream import Closing


def request(**fields: Any) -> rpc.SubscribeRequest:
    given: dict[str, Any] = {"subscriber_id": "worker-1", **fields}
    return rpc.SubscribeRequest(**given)


async def batches(events: AsyncIterator[rpc.SubscribeResponse]) -> AsyncIterator[pb.Batch]:
    async for event in events:
        if event.HasField("batch"):
            yield event.batch


async def test_a_stream_opens_with_what_is_in_force(rig: Rig):
    call = rig.delivery.Subscribe(
        request(), metadata=(("x-request-id", "req-9"), ("traceparent", "x"))
    )
    opened = (await call.read()).opened
    subscriber = await rig.engine.came.get()
    assert opened.subscription_id == subscriber.subscription_id
    assert opened.max_in_flight == subscriber.max_in_flight == 8
    assert opened.lease_duration.ToMilliseconds() == subscriber.lease_ms == 30_000
    assert opened.heartbeat_interval.ToMilliseconds() == 200
    assert subscriber.channel is DeliveryChannel.STREAM
    assert dict(await call.initial_metadata())["x-request-id"] == "req-9"
    call.cancel()


async def test_a_batch_arrives_as_its_messages_came(rig: Rig):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    binary = pb.BufferedMessage(message=pb.Message(id="2", binary=b"\0\xff"), traceparent=parent)
    batch = await rig.engine.batch("ann", text_body("hé"), binary.SerializeToString())
    rig.engine.ready = [batch]
    call = rig.delivery.Subscribe(request())
    wire = await anext(batches(call))
    assert wire.info.batch_id == batch.info.batch_id
    assert wire.info.conversation == pb.ConversationRef(instance="bot", conversation="ann")
    assert (wire.info.message_count, wire.info.attempt, wire.info.max_attempts) == (2, 1, 4)
    assert wire.info.flush_reason == pb.FLUSH_REASON_DELAY
    assert wire.lease_token == batch.token
    assert wire.lease_expires_at.ToMilliseconds() == batch.lease_expires_at_ms
    first, second = wire.messages
    assert (first.message.text, second.message.binary) == ("hé", b"\0\xff")
    assert second.traceparent == parent
    assert [first.sequence, second.sequence] == [m.sequence for m in batch.messages]
    assert first.received_at.ToMilliseconds() == batch.messages[0].received_at_ms
    call.cancel()


async def test_silence_is_broken_by_heartbeats(rig: Rig):
    call = rig.delivery.Subscribe(request())
    await call.read()
    (await rig.engine.came.get()).in_flight = 3
    heartbeat = (await call.read()).heartbeat
    assert heartbeat.in_flight == 3
    assert heartbeat.time.ToMilliseconds() == 1_700_000_000_123
    assert (await call.read()).HasField("heartbeat")
    call.cancel()


async def test_a_batch_that_cannot_be_read_is_buried_and_the_next_one_comes(rig: Rig):
    corrupt = await rig.engine.batch("ann", text_body("fine"), b"\xff\xff")
    empty = await rig.engine.batch("bob", b"")
    healthy = await rig.engine.batch("eve", text_body("hello"))
    rig.engine.ready = [corrupt, empty, healthy]
    call = rig.delivery.Subscribe(request())
    wire = await anext(batches(call))
    assert wire.info.batch_id == healthy.info.batch_id
    for batch in (corrupt, empty):
        name, action, reason, message, _ = rig.engine.nacks.get_nowait()
        assert (name, action) == (batch.info.batch_id, NackAction.DEAD_LETTER)
        assert reason == "CORRUPT"
        assert str(batch.messages[-1].sequence) in message
        assert (await rig.engine.store.batch(name)).info.last_error_reason == "CORRUPT"
    call.cancel()


async def test_a_batch_that_cannot_be_buried_does_not_end_the_stream(rig: Rig):
    call = rig.delivery.Subscribe(request())
    await call.read()
    rig.engine.failure = StoreUnavailable("the store is away")
    subscriber = await rig.engine.came.get()
    subscriber.events.put_nowait(await rig.engine.batch("ann", b"\xff"))
    subscriber.events.put_nowait(await rig.engine.batch("bob", text_body("hello")))
    assert (await call.read()).batch.info.conversation.conversation == "bob"
    call.cancel()


async def test_a_drain_is_announced_and_the_stream_ends_well(rig: Rig):
    call = rig.delivery.Subscribe(request())
    await call.read()
    subscriber = await rig.engine.came.get()
    subscriber.events.put_nowait(Closing("the server is shutting down", 1_700_000_010_000))
    closing = (await call.read()).closing
    assert closing.reason == "the server is shutting down"
    assert closing.closes_at.ToMilliseconds() == 1_700_000_010_000
    assert await call.code() is grpc.StatusCode.OK
    assert await rig.engine.gone.get() is subscriber


async def test_a_client_that_goes_away_is_unsubscribed(rig: Rig):
    call = rig.delivery.Subscribe(request())
    await call.read()
    call.cancel()
    assert await rig.engine.gone.get() is await rig.engine.came.get()
    assert not rig.engine.subscribers


async def test_a_stop_that_cuts_a_stream_off_unsubscribes_it(rig: Rig):
    call = rig.delivery.Subscribe(request())
    await call.read()
    await rig.server.stop(0)
    assert await rig.engine.gone.get() is await rig.engine.came.get()


async def test_a_slow_client_is_not_buffered_for(rig: Rig):
    call = rig.delivery.Subscribe(request(max_in_flight=1000))
    await call.read()
    subscriber = await rig.engine.came.get()
    batch = await rig.engine.batch("ann", text_body("x" * 900_000))
    for _ in range(20):
        subscriber.events.put_nowait(batch)
    await subscriber.rests()
    assert subscriber.events.qsize() > 10
    call.cancel()
    assert await rig.engine.gone.get() is subscriber


async def test_too_many_subscribers_is_a_quota(rig: Rig):
    rig.engine.failure = TooManySubscribers("this server has 1000 subscribers, its limit")
    failed = await failure(rig.delivery.Subscribe(request()).read())
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.reason == "TOO_MANY_SUBSCRIBERS"
    assert failed.details[details.QuotaFailure].violations[0].subject == "server"


BAD = [
    ({"subscriber_id": ""}, "subscriber_id"),
    ({"subscriber_id": "w" * 129}, "subscriber_id"),
    ({"subscriber_id": "a\tb"}, "subscriber_id"),
    ({"instances": ["bot", "a b"]}, "instances[1]"),
    ({"instances": ["bot"] * 101}, "instances"),
    ({"lease_duration": Duration(nanos=999_999_999)}, "lease_duration"),
    ({"lease_duration": Duration(seconds=600, nanos=1)}, "lease_duration"),
]


@pytest.mark.parametrize(
    ("fields", "field"),
    [*BAD, ({"max_in_flight": -1}, "max_in_flight"), ({"max_in_flight": 1001}, "max_in_flight")],
)
async def test_a_bad_subscription_is_refused(rig: Rig, fields: dict[str, Any], field: str):
    failed = await failure(rig.delivery.Subscribe(request(**fields)).read())
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]
    assert not rig.engine.subscribers


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *BAD,
        ({"max_batches": -1}, "max_batches"),
        ({"max_batches": 101}, "max_batches"),
        ({"wait": Duration(seconds=61)}, "wait"),
        ({"wait": Duration(seconds=-1)}, "wait"),
    ],
)
async def test_a_bad_pull_is_refused(rig: Rig, fields: dict[str, Any], field: str):
    given: dict[str, Any] = {"subscriber_id": "worker-1", **fields}
    failed = await failure(rig.delivery.Pull(rpc.PullRequest(**given)))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]
    assert not rig.engine.subscribers
