import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.api.house import PATIENCE_S, House, entry, ref, texts, until
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2 as rpc
from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate.v1 import delivery_service_pb2 as delivery
from tidegate.v1 import types_pb2 as pb
from tidegate_server.store.signals import EventKind

Houses = tuple[House, House]
GIVE_UP = delivery.NACK_ACTION_DEAD_LETTER


async def bury(house: House, *names: str) -> list[str]:
    """One dead letter for each conversation."""
    ids: list[str] = []
    for name in names:
        await house.add(f"of {name}", conversation=name, flush=True)
        (batch,) = (await house.pull()).batches
        await house.nack(batch, GIVE_UP)
        ids.append(batch.info.batch_id)
    return ids


async def pages(house: House, **fields: Any) -> list[list[str]]:
    found: list[list[str]] = []
    token = ""
    while not found or token:
        request = rpc.ListConversationsRequest(page_token=token, **fields)
        page = await house.admin.ListConversations(request)
        found.append([info.conversation.conversation for info in page.conversations])
        token = page.next_page_token
    return found


async def test_conversations_are_listed_page_by_page_soonest_first(houses: Houses):
    house, _ = houses
    names = ["ünn/{x}", "bob", "cid", "dan", "\U0001f41f" * 256]
    for name in names:
        await house.add("hello", conversation=name)
        await asyncio.sleep(0.002)
    await house.buffer.Flush(buffer.FlushRequest(conversation=ref("dan")))
    expected = ["dan", *(name for name in names if name != "dan")]
    assert await pages(house) == [expected]
    assert await pages(house, page_size=2) == [expected[:2], expected[2:4], expected[4:]]
    assert await pages(house, page_size=5) == [expected]
    assert await pages(house, instance="other") == [[]]


async def test_a_listed_conversation_shows_its_buffer_and_its_batch(houses: Houses):
    house, _ = houses
    await house.add("one", flush=True)
    (batch,) = (await house.pull()).batches
    await house.add("two", "three")
    page = await house.admin.ListConversations(rpc.ListConversationsRequest())
    (info,) = page.conversations
    assert info.conversation == ref()
    assert info.buffer.message_count == 2
    assert info.current_batch.batch_id == batch.info.batch_id
    assert info.current_batch.max_attempts == 4
    await house.ack(batch)
    page = await house.admin.ListConversations(rpc.ListConversationsRequest())
    assert not page.conversations[0].HasField("current_batch")


async def test_a_page_token_is_good_for_its_own_listing_only(houses: Houses):
    house, _ = houses
    for name in ("a", "b"):
        await house.add("hello", conversation=name)
    await bury(house, "c", "d")
    page = await house.admin.ListConversations(rpc.ListConversationsRequest(page_size=1))
    token = page.next_page_token
    for request, method in (
        (rpc.ListConversationsRequest(page_size=2, page_token=token), "ListConversations"),
        (rpc.ListConversationsRequest(page_size=1, page_token=token + "A"), "ListConversations"),
        (rpc.ListDeadLettersRequest(page_size=1, page_token=token), "ListDeadLetters"),
    ):
        failed = await failure(getattr(house.admin, method)(request))
        assert failed.fields == ["page_token"]


async def test_a_message_is_followed_from_the_buffer_to_its_end(houses: Houses):
    house, other = houses
    request = rpc.TrackMessageRequest(conversation=ref(), message_id="one")
    assert (await failure(house.admin.TrackMessage(request))).code is grpc.StatusCode.NOT_FOUND
    await house.add("one")
    added = await house.buffer.AddMessage(entry("one"))
    tracked = await other.admin.TrackMessage(request)
    assert (tracked.sequence, tracked.duplicates) == (added.sequence, 1)
    assert tracked.received_at == tracked.buffer.opened_at
    assert not tracked.HasField("batch")
    await house.buffer.Flush(buffer.FlushRequest(conversation=ref()))
    (batch,) = (await house.pull()).batches
    await house.nack(batch, GIVE_UP)
    tracked = await other.admin.TrackMessage(request)
    assert not tracked.HasField("buffer")
    assert tracked.batch.batch_id == batch.info.batch_id
    assert tracked.batch.state == pb.BATCH_STATE_DEAD_LETTERED
    (attempt,) = tracked.attempts
    assert (attempt.subscriber_id, attempt.error_reason) == ("php", "NACKED")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (rpc.TrackMessageRequest(message_id="one"), "conversation"),
        (rpc.TrackMessageRequest(conversation=ref()), "message_id"),
        (rpc.TrackMessageRequest(conversation=ref(), message_id="\0"), "message_id"),
        (rpc.EraseConversationRequest(), "conversation"),
        (rpc.ListConversationsRequest(page_size=-1), "page_size"),
        (rpc.ListConversationsRequest(instance="a b"), "instance"),
        (rpc.ListConversationsRequest(page_token="x"), "page_token"),
        (rpc.RequeueDeadLettersRequest(), "batch_ids"),
        (rpc.RequeueDeadLettersRequest(batch_ids=["x"] * 101), "batch_ids"),
        (rpc.DeleteDeadLettersRequest(), "batch_ids"),
        (rpc.DeleteDeadLettersRequest(batch_ids=["x"] * 101), "batch_ids"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(house: House, request_: Any, field: str):
    method = type(request_).DESCRIPTOR.name.removesuffix("Request")
    failed = await failure(getattr(house.admin, method)(request_))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]


async def test_dead_letters_are_requeued_once_each_in_the_order_asked_for(houses: Houses):
    house, other = houses
    ids = await bury(house, "ann", "bob")
    wanted = [ids[1], "no-such-batch", "", "+49 170", ids[0], ids[1]]
    request = rpc.RequeueDeadLettersRequest(batch_ids=wanted)
    results = (await other.admin.RequeueDeadLetters(request)).results
    assert [result.batch_id for result in results] == wanted
    assert [result.applied for result in results] == [True, False, False, False, True, False]
    again = (await house.admin.RequeueDeadLetters(request)).results
    assert not any(result.applied for result in again)
    batches = [*(await house.pull()).batches, *(await house.pull()).batches]
    assert sorted(text for batch in batches for text in texts(batch)) == ["of ann", "of bob"]


async def test_deleted_dead_letters_are_gone(houses: Houses):
    house, _ = houses
    first, second = await bury(house, "ann", "bob")
    request = rpc.DeleteDeadLettersRequest(batch_ids=[first, first, "none"])
    results = (await house.admin.DeleteDeadLetters(request)).results
    assert [result.applied for result in results] == [True, False, False]
    left = await house.admin.ListDeadLetters(rpc.ListDeadLettersRequest())
    assert [info.batch_id for info in left.batches] == [second]
    shown = await house.admin.GetBatch(rpc.GetBatchRequest(batch_id=first))
    assert shown.batch.state == pb.BATCH_STATE_DISCARDED
    assert not shown.messages


async def test_an_erased_conversation_is_forgotten_with_its_dead_letters(houses: Houses):
    house, other = houses
    (letter,) = await bury(house, "ann")
    stream = await house.opened(max_in_flight=1)
    await house.add("leased", flush=True)
    batch = (await stream.read()).batch
    await house.add("gathering")
    request = rpc.EraseConversationRequest(conversation=ref())
    assert (await other.admin.EraseConversation(request)).erased_messages == 3
    assert (await other.admin.EraseConversation(request)).erased_messages == 0
    for batch_id in (letter, batch.info.batch_id):
        failed = await failure(house.admin.GetBatch(rpc.GetBatchRequest(batch_id=batch_id)))
        assert failed.code is grpc.StatusCode.NOT_FOUND
    assert (await failure(house.ack(batch))).code is grpc.StatusCode.NOT_FOUND
    await house.add("next", conversation="bob", flush=True)
    response = await stream.read()
    while response.HasField("superseded"):
        response = await stream.read()
    assert texts(response.batch) == ["next"]
    stream.cancel()


async def watched(house: House, **fields: Any) -> Any:
    """A tail that is in force."""
    before = house.engine.subscribers.guests
    tail = house.admin.WatchEvents(rpc.WatchEventsRequest(**fields))
    await until(lambda: house.engine.subscribers.guests > before)
    return tail


async def events(tail: Any, count: int) -> list[rpc.WatchEventsResponse]:
    async with asyncio.timeout(PATIENCE_S):
        return [await tail.read() for _ in range(count)]


async def test_every_replica_shows_what_happens(houses: Houses):
    one, other = houses
    tails = [await watched(one), await watched(other, instance="bot")]
    await asyncio.sleep(0.01)
    await one.add("secret words", flush=True)
    (batch,) = (await one.pull()).batches
    await one.ack(batch)
    for tail in tails:
        added, delivered, completed = await events(tail, 3)
        assert added.kind == rpc.EVENT_KIND_MESSAGE_ADDED
        assert (added.conversation, added.message_id) == (ref(), "secret words")
        assert added.buffer.message_count == 1
        assert not added.HasField("batch")
        assert delivered.kind == rpc.EVENT_KIND_BATCH_DELIVERED
        assert delivered.batch == batch.info
        assert completed.kind == rpc.EVENT_KIND_BATCH_COMPLETED
        assert completed.batch.state == pb.BATCH_STATE_COMPLETED
        assert completed.batch.HasField("settled_at")
        assert completed.batch.message_count == 1
        assert completed.time == completed.batch.settled_at
        tail.cancel()


async def test_of_a_batch_that_was_handed_out_elsewhere_only_its_fate_is_known(houses: Houses):
    one, other = houses
    await one.add("hello", flush=True)
    (batch,) = (await one.pull()).batches
    tail = await watched(other)
    await other.nack(batch, delivery.NACK_ACTION_RETRY)
    (event,) = await events(tail, 1)
    assert event.kind == rpc.EVENT_KIND_BATCH_RETRY_SCHEDULED
    assert event.batch.batch_id == batch.info.batch_id
    assert event.batch.state == pb.BATCH_STATE_RETRY_SCHEDULED
    assert event.batch.HasField("next_attempt_at")
    assert not event.batch.HasField("opened_at")
    assert event.batch.max_attempts == 4
    tail.cancel()


async def test_the_kinds_of_events_are_those_of_the_contract():
    kinds = {f"EVENT_KIND_{kind.name}": kind.value for kind in EventKind}
    assert kinds | {"EVENT_KIND_UNSPECIFIED": 0} == dict(rpc.EventKind.items())


async def test_a_reader_that_is_slow_is_told_what_it_missed_and_slows_nobody(houses: Houses):
    house, _ = houses
    tail = await watched(house)
    count, done = 20_000, 0
    async with asyncio.timeout(60):
        while done < count:
            entries = [entry(f"{done + n}", f"user {n}") for n in range(1_000)]
            results = await house.buffer.AddMessages(buffer.AddMessagesRequest(messages=entries))
            assert all(result.response.success for result in results.results)
            done += 1_000
        missed = seen = 0
        while seen + missed < count:
            event = await tail.read()
            seen, missed = seen + 1, missed + event.dropped
    assert missed > 0
    assert seen + missed == count
    tail.cancel()


async def test_watchers_share_the_limit_of_the_subscribers(folder: Any):
    house = House(f"unix:{folder}/small", most=1)
    await house.start()
    tail = await watched(house)
    failed = await failure(house.admin.WatchEvents(rpc.WatchEventsRequest()).read())
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.reason == "TOO_MANY_SUBSCRIBERS"
    assert (await failure(house.subscribe().read())).reason == "TOO_MANY_SUBSCRIBERS"
    tail.cancel()
    await until(lambda: not house.engine.subscribers.guests)
    (await house.opened()).cancel()
    await house.stop()


async def test_a_drain_ends_the_tails(house: House):
    tail = await watched(house)
    await house.engine.drain(1)
    assert await tail.read() is grpc.aio.EOF
    assert await tail.code() is grpc.StatusCode.OK
    failed = await failure(house.admin.WatchEvents(rpc.WatchEventsRequest()).read())
    assert failed.reason == "DRAINING"


async def test_a_bad_instance_cannot_be_watched(house: House):
    failed = await failure(house.admin.WatchEvents(rpc.WatchEventsRequest(instance="a b")).read())
    assert failed.fields == ["instance"]
