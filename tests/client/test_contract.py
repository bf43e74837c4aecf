"""The calls that change a message's mind, and the operator's."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from tests.support.fake_gate import PATIENCE_S, FakeGate, failure
from tidegate import (
    Added,
    AlreadySealed,
    Client,
    EventKind,
    InvalidArgument,
    NewMessage,
    PermissionDenied,
    ResourceExhausted,
    TidegateError,
    Unavailable,
    WindowPolicy,
)
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import types_pb2

AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away")
SEALED = failure(grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_SEALED", "it is in a batch already")
ADA = types_pb2.ConversationRef(instance="bot", conversation="ada")


def many(count: int, *, of: str = "ada", size: int = 1) -> list[NewMessage]:
    return [NewMessage("bot", of, "x" * size, message_id=f"m{n}") for n in range(count)]


async def test_many_are_added_in_order_with_one_call(gate: FakeGate, client: Client):
    added = await client.add_many(
        [
            NewMessage("bot", "ada", "one", message_id="m1"),
            NewMessage("bot", "grace", b"two", flush=True, policy=WindowPolicy(max_messages=3)),
            NewMessage("bot", "ada", "three", message_id="m3", attributes={"n": "3"}),
        ]
    )
    (request,) = gate.calls("AddMessages")
    assert [entry.message.text for entry in request.messages] == ["one", "", "three"]
    assert request.messages[1].flush
    assert request.messages[1].policy.max_messages == 3
    assert request.messages[1].message.id
    results = [(type(result), result.message_id) for result in added if isinstance(result, Added)]
    assert results == [(Added, entry.message.id) for entry in request.messages]
    assert gate.stored("ada") == ["m1", "m3"]


async def test_none_is_no_call(gate: FakeGate, client: Client):
    assert await client.add_many([]) == []
    assert not gate.calls("AddMessages")


async def test_very_many_take_several_calls(gate: FakeGate, client: Client):
    assert len(await client.add_many(many(1200))) == 1200
    await client.add_many(many(5, of="grace", size=400_000))
    sizes = [len(request.messages) for request in gate.calls("AddMessages")]
    assert sizes == [512, 512, 176, 2, 2, 1]
    assert gate.stored("ada") == [f"m{n}" for n in range(1200)]


async def test_each_of_many_has_its_own_result(gate: FakeGate, client: Client):
    quota = types_pb2.ErrorReason.Value("ERROR_REASON_QUOTA_EXCEEDED")
    response = buffer_pb2.AddMessagesResponse()
    response.results.add().response.sequence = 7
    response.results.add().error.MergeFrom(buffer_pb2.AddError(code=8, reason=quota))
    gate.script("AddMessages", response)
    broken = NewMessage("bot", "ada", "\ud83d")
    good, refused, full = await client.add_many([many(1)[0], broken, many(1)[0]])
    assert isinstance(good, Added)
    assert good.sequence == 7
    assert isinstance(refused, InvalidArgument)
    assert isinstance(full, ResourceExhausted)
    assert full.reason == "QUOTA_EXCEEDED"


async def test_many_that_cannot_be_added_at_all_raise(gate: FakeGate, client: Client):
    gate.script("AddMessages", *[AWAY] * 4)
    with pytest.raises(Unavailable, match="the store is away"):
        await client.add_many(many(3))
    assert gate.stored("ada") == []


async def test_after_a_call_that_failed_nothing_overtakes(gate: FakeGate, client: Client):
    first = buffer_pb2.AddMessagesResponse()
    for _ in range(512):
        first.results.add().response.success = True
    gate.script("AddMessages", first, *[AWAY] * 4)
    results = await client.add_many(many(1200), timeout=timedelta(seconds=PATIENCE_S))
    assert all(isinstance(result, Added) for result in results[:512])
    assert all(isinstance(result, Unavailable) for result in results[512:])
    assert gate.stored("ada") == []


async def test_hold_keeps_the_window_open(gate: FakeGate, client: Client):
    response = buffer_pb2.HoldWindowResponse(held=True)
    response.buffer.message_count = 2
    gate.script("HoldWindow", response)
    held, nothing = (
        await client.hold("bot", "ada", timedelta(seconds=9)),
        await client.hold("b", "c"),
    )
    assert held.held
    assert held.buffer is not None
    assert held.buffer.message_count == 2
    assert (nothing.held, nothing.buffer) == (False, None)
    first, second = gate.calls("HoldWindow")
    assert first.conversation == ADA
    assert first.hold_for.ToTimedelta() == timedelta(seconds=9)
    assert second.hold_for.ToTimedelta() == timedelta(seconds=5)


async def test_amend_replaces_a_message(gate: FakeGate, client: Client):
    response = buffer_pb2.AmendMessageResponse()
    response.buffer.payload_bytes = 3
    gate.script("AmendMessage", response)
    buffer = await client.amend(
        "bot", "ada", "m1", "new", content_type="text/markdown", attributes={"edited": "yes"}
    )
    assert buffer.payload_bytes == 3
    (request,) = gate.calls("AmendMessage")
    assert request.conversation == ADA
    assert (request.message.id, request.message.text) == ("m1", "new")
    assert request.message.content_type == "text/markdown"
    assert dict(request.message.attributes) == {"edited": "yes"}


async def test_remove_tells_what_is_left(gate: FakeGate, client: Client):
    response = buffer_pb2.RemoveMessageResponse()
    response.buffer.message_count = 1
    gate.script("RemoveMessage", response)
    left, nothing = [await client.remove("bot", "ada", name) for name in ("m1", "m2")]
    assert left is not None
    assert left.message_count == 1
    assert nothing is None
    assert [request.message_id for request in gate.calls("RemoveMessage")] == ["m1", "m2"]


async def test_what_is_in_a_batch_cannot_be_changed(gate: FakeGate, client: Client):
    gate.script("AmendMessage", SEALED)
    gate.script("RemoveMessage", SEALED)
    with pytest.raises(AlreadySealed, match="in a batch already"):
        await client.amend("bot", "ada", "m1", "new")
    with pytest.raises(AlreadySealed):
        await client.remove("bot", "ada", "m1")


async def test_discard_counts_what_it_dropped(gate: FakeGate, client: Client):
    gate.script("Discard", buffer_pb2.DiscardResponse(discarded_count=4))
    assert await client.discard("bot", "ada") == 4
    assert await client.discard("bot", "ada") == 0
    assert gate.calls("Discard")[0].conversation == ADA


async def test_a_message_is_followed(gate: FakeGate, client: Client):
    response = admin_pb2.TrackMessageResponse(sequence=3, duplicates=2)
    response.received_at.FromSeconds(5)
    response.batch.batch_id = "b1"
    response.attempts.add(number=1, channel=1).started_at.FromSeconds(6)
    gate.script("TrackMessage", response)
    tracked = await client.track("bot", "ada", "m1")
    assert (tracked.sequence, tracked.duplicates) == (3, 2)
    assert tracked.received_at == datetime.fromtimestamp(5, UTC)
    assert tracked.buffer is None
    assert tracked.batch is not None
    assert tracked.batch.batch_id == "b1"
    assert tracked.attempts[0].number == 1
    (request,) = gate.calls("TrackMessage")
    assert (request.conversation, request.message_id) == (ADA, "m1")


async def test_conversations_come_from_all_pages(gate: FakeGate, client: Client):
    one, two = admin_pb2.ListConversationsResponse(), admin_pb2.ListConversationsResponse()
    first = one.conversations.add(conversation=ADA)
    first.buffer.message_count = 2
    one.next_page_token = "more"
    two.conversations.add().current_batch.batch_id = "b2"
    gate.script("ListConversations", one, two)
    with_buffer, with_batch = [info async for info in client.conversations("bot")]
    assert (with_buffer.instance, with_buffer.conversation) == ("bot", "ada")
    assert with_buffer.buffer is not None
    assert with_buffer.current_batch is None
    assert "ada" not in repr(with_buffer)
    assert with_batch.current_batch is not None
    assert with_batch.current_batch.batch_id == "b2"
    tokens = [(r.instance, r.page_token) for r in gate.calls("ListConversations")]
    assert tokens == [("bot", ""), ("bot", "more")]


async def test_dead_letters_are_requeued_and_deleted_a_hundred_at_a_time(
    gate: FakeGate, client: Client
):
    requeued = admin_pb2.RequeueDeadLettersResponse()
    requeued.results.add(batch_id="b0", applied=True)
    requeued.results.add(batch_id="b1")
    gate.script("RequeueDeadLetters", requeued)
    assert await client.requeue(*(f"b{n}" for n in range(150))) == {"b0": True, "b1": False}
    sizes = [len(request.batch_ids) for request in gate.calls("RequeueDeadLetters")]
    assert sizes == [100, 50]

    deleted = admin_pb2.DeleteDeadLettersResponse()
    deleted.results.add(batch_id="b0", applied=True)
    gate.script("DeleteDeadLetters", deleted)
    assert await client.delete_dead_letters("b0") == {"b0": True}
    assert await client.delete_dead_letters() == {}
    assert [list(r.batch_ids) for r in gate.calls("DeleteDeadLetters")] == [["b0"]]


async def test_erase_counts_what_it_forgot(gate: FakeGate, client: Client):
    gate.script("EraseConversation", admin_pb2.EraseConversationResponse(erased_messages=9))
    assert await client.erase("bot", "ada") == 9
    assert gate.calls("EraseConversation")[0].conversation == ADA


def added_event(message_id: str) -> admin_pb2.WatchEventsResponse:
    event = admin_pb2.WatchEventsResponse(
        kind=admin_pb2.EVENT_KIND_MESSAGE_ADDED, conversation=ADA, message_id=message_id, dropped=2
    )
    event.time.FromSeconds(5)
    event.buffer.message_count = 1
    return event


async def test_events_are_shown_as_they_come(gate: FakeGate, client: Client):
    events = client.watch("bot")
    coming = asyncio.ensure_future(anext(events))
    stream = (await gate.next_stream()).send(added_event("m1"))
    event = await asyncio.wait_for(coming, PATIENCE_S)
    assert stream.request.instance == "bot"
    assert (event.kind, event.message_id, event.dropped) == (EventKind.MESSAGE_ADDED, "m1", 2)
    assert event.time == datetime.fromtimestamp(5, UTC)
    assert (event.instance, event.conversation) == ("bot", "ada")
    assert event.buffer is not None
    assert event.batch is None
    assert "ada" not in repr(event)


async def test_the_live_tail_goes_on_after_the_server_was_away(gate: FakeGate, client: Client):
    events = client.watch()
    coming = asyncio.ensure_future(anext(events))
    (await gate.next_stream()).send(AWAY)
    (await gate.next_stream()).send(None)
    (await gate.next_stream()).send(added_event("m1"))
    assert (await asyncio.wait_for(coming, PATIENCE_S)).message_id == "m1"


async def test_the_live_tail_ends_when_the_server_refuses(gate: FakeGate, client: Client):
    events = client.watch()
    coming = asyncio.ensure_future(anext(events))
    (await gate.next_stream()).send(failure(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"))
    with pytest.raises(PermissionDenied):
        await asyncio.wait_for(coming, PATIENCE_S)


async def test_leaving_the_live_tail_ends_its_stream(gate: FakeGate, client: Client):
    events = client.watch()
    coming = asyncio.ensure_future(anext(events))
    stream = (await gate.next_stream()).send(added_event("m1"))
    await coming
    await events.aclose()
    await stream.wait_over()


async def test_closing_the_client_ends_the_live_tail(gate: FakeGate, client: Client):
    coming = asyncio.ensure_future(anext(client.watch()))
    await gate.next_stream()
    await client.close()
    with pytest.raises(TidegateError, match="closed"):
        await asyncio.wait_for(coming, PATIENCE_S)
