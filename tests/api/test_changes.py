from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.api.house import House, entry, ref, texts
from tests.api.status import failure
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import delivery_service_pb2 as delivery
from tidegate.v1 import types_pb2 as pb

Houses = tuple[House, House]


def hold(**fields: Any) -> rpc.HoldWindowRequest:
    return rpc.HoldWindowRequest(conversation=ref(), **fields)


def amend(name: str, text: str, **fields: Any) -> rpc.AmendMessageRequest:
    message = pb.Message(id=name, text=text, **fields)
    return rpc.AmendMessageRequest(conversation=ref(), message=message)


def remove(name: str) -> rpc.RemoveMessageRequest:
    return rpc.RemoveMessageRequest(conversation=ref(), message_id=name)


async def delivered(house: House) -> pb.Batch:
    """The conversation's batch, now."""
    await house.buffer.Flush(rpc.FlushRequest(conversation=ref()))
    (batch,) = (await house.pull()).batches
    return batch


async def test_a_hold_is_5_s_unless_it_says_otherwise(houses: Houses):
    house, _ = houses
    none = await house.buffer.HoldWindow(hold())
    assert not none.held
    assert not none.HasField("buffer")
    request = entry("hello", policy=pb.WindowPolicy(delay=Duration(seconds=2)))
    added = await house.buffer.AddMessage(request)
    opened_ms = added.buffer.opened_at.ToMilliseconds()
    for fields, least_ms in (({}, 5_000), ({"hold_for": Duration(seconds=9)}, 9_000)):
        held = await house.buffer.HoldWindow(hold(**fields))
        assert held.held
        assert least_ms <= held.buffer.flush_at.ToMilliseconds() - opened_ms < least_ms + 1_000
    shorter = await house.buffer.HoldWindow(hold(hold_for=Duration()))
    assert shorter.held
    assert shorter.buffer.flush_at == held.buffer.flush_at


@pytest.mark.parametrize(
    "value", [Duration(seconds=60, nanos=1), Duration(seconds=-1), Duration(nanos=-1)]
)
async def test_a_hold_out_of_range_is_refused(house: House, value: Duration):
    failed = await failure(house.buffer.HoldWindow(hold(hold_for=value)))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["hold_for"]


async def test_an_amended_message_is_delivered_with_its_new_payload(houses: Houses):
    one, other = houses
    await one.add("teh", "second")
    request = amend("teh", "the", content_type="text/x", attributes={"edited": "yes"})
    amended = await other.buffer.AmendMessage(request)
    assert (amended.buffer.message_count, amended.buffer.payload_bytes) == (2, 9)
    batch = await delivered(one)
    assert texts(batch) == ["the", "second"]
    first, second = batch.messages
    assert (first.message.id, first.message.content_type) == ("teh", "text/x")
    assert dict(first.message.attributes) == {"edited": "yes"}
    assert first.amended_at.ToMilliseconds() >= first.received_at.ToMilliseconds()
    assert not second.HasField("amended_at")


async def test_a_removed_message_is_not_delivered(houses: Houses):
    house, _ = houses
    await house.add("one", "two")
    assert (await house.buffer.RemoveMessage(remove("one"))).buffer.message_count == 1
    assert (await house.buffer.RemoveMessage(remove("one"))).buffer.message_count == 1
    assert texts(await delivered(house)) == ["two"]
    await house.add("three", conversation="bob")
    request = rpc.RemoveMessageRequest(conversation=ref("bob"), message_id="three")
    assert not (await house.buffer.RemoveMessage(request)).HasField("buffer")


async def test_a_discarded_buffer_is_counted(houses: Houses):
    house, _ = houses
    request = rpc.DiscardRequest(conversation=ref())
    assert (await house.buffer.Discard(request)).discarded_count == 0
    await house.add("one", "two")
    assert (await house.buffer.Discard(request)).discarded_count == 2
    failed = await failure(house.buffer.AmendMessage(amend("one", "x")))
    assert failed.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("request_", [amend("one", "x"), remove("one")])
async def test_what_is_in_a_batch_is_sealed(houses: Houses, request_: Any):
    house, _ = houses
    method = type(request_).DESCRIPTOR.name.removesuffix("Request")
    call = getattr(house.buffer, method)
    failed = await failure(call(request_))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await house.add("one")
    batch = await delivered(house)
    for _ in range(2):
        failed = await failure(call(request_))
        assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.reason == "ALREADY_SEALED"
        if not batch.info.HasField("settled_at"):
            await house.ack(batch)
    await house.add("two")
    batch = await delivered(house)
    await house.nack(batch, delivery.NACK_ACTION_REBUFFER)
    assert await call(remove("two") if method == "RemoveMessage" else amend("two", "x"))


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("AmendMessage", amend("", "x"), "message.id"),
        ("AmendMessage", amend("a\n", "x"), "message.id"),
        ("AmendMessage", rpc.AmendMessageRequest(conversation=ref()), "message"),
        (
            "AmendMessage",
            rpc.AmendMessageRequest(conversation=ref(), message=pb.Message(id="one")),
            "message.payload",
        ),
        ("RemoveMessage", remove(""), "message_id"),
        ("RemoveMessage", remove("x" * 129), "message_id"),
        ("RemoveMessage", rpc.RemoveMessageRequest(message_id="x"), "conversation"),
        ("Discard", rpc.DiscardRequest(conversation=ref("")), "conversation.conversation"),
        ("HoldWindow", rpc.HoldWindowRequest(), "conversation"),
    ],
)
async def test_a_bad_change_is_refused_by_its_field(
    house: House, method: str, request_: Any, field: str
):
    failed = await failure(getattr(house.buffer, method)(request_))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]


async def test_an_amendment_that_is_too_large_is_refused(houses: Houses):
    house, _ = houses
    await house.add("one")
    failed = await failure(house.buffer.AmendMessage(amend("one", "x" * 1001)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    assert texts(await delivered(house)) == ["one"]


async def test_the_stream_is_told_once_that_the_user_wrote_again(houses: Houses):
    one, other = houses
    stream = await one.opened()
    await one.add("1", flush=True)
    batch = (await stream.read()).batch
    for n in range(10):
        await (one, other)[n % 2].add(f"later {n}")
    hint = (await stream.read()).superseded
    assert (hint.batch_id, hint.conversation) == (batch.info.batch_id, ref())
    assert 1 <= hint.buffer.message_count <= 10
    failed = await failure(one.ack(batch, only_if_current=True))
    assert failed.reason == "SUPERSEDED"
    await other.buffer.Flush(rpc.FlushRequest(conversation=ref()))
    again = (await stream.read()).batch
    assert texts(again) == ["1", *(f"later {n}" for n in range(10))]
    assert again.info.rebuffer_count == 1
    assert (await one.ack(again, only_if_current=True)).state == pb.BATCH_STATE_COMPLETED
    stream.cancel()


async def test_a_nack_can_put_the_messages_back(houses: Houses):
    house, other = houses
    await house.add("1", flush=True)
    (batch,) = (await house.pull()).batches
    for already in (False, True):
        response = await other.nack(batch, delivery.NACK_ACTION_REBUFFER)
        assert response.state == pb.BATCH_STATE_REBUFFERED
        assert response.already_settled == already
        assert not response.HasField("next_attempt_at")
    status = await house.buffer.GetStatus(rpc.GetStatusRequest(conversation=ref()))
    assert status.buffer.message_count == 1
    assert status.last_batch.state == pb.BATCH_STATE_REBUFFERED
    assert texts(await delivered(house)) == ["1"]
