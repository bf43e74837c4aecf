import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.support.fake_gate import FakeGate, Hang, batch, failure
from tidegate import (
    AddOutcome,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    TidegateError,
    Unavailable,
    WindowMode,
    WindowPolicy,
)
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away")


async def test_add_sends_what_was_given(gate: FakeGate, client: Client):
    await client.add(
        "bot",
        "+49170",
        "hello",
        message_id="wamid.1",
        content_type="text/markdown",
        attributes={"name": "Ada"},
        occurred_at=datetime(2024, 5, 1, 12, tzinfo=UTC),
        policy=WindowPolicy(mode=WindowMode.SLIDING, delay=timedelta(0)),
        flush=True,
    )

    (request,) = gate.calls("AddMessage")
    assert (request.instance, request.conversation, request.flush) == ("bot", "+49170", True)
    assert (request.message.id, request.message.text) == ("wamid.1", "hello")
    assert request.message.content_type == "text/markdown"
    assert dict(request.message.attributes) == {"name": "Ada"}
    assert request.message.occurred_at.ToDatetime(UTC) == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert request.policy.mode == 2
    assert request.policy.HasField("delay")
    assert not request.policy.HasField("grace")


async def test_add_answers_what_became_of_the_message(gate: FakeGate, client: Client):
    response = buffer_pb2.AddMessageResponse(
        success=True,
        buffer_created=True,
        outcome=buffer_pb2.ADD_OUTCOME_BUFFERED,
        message_id="m1",
        sequence=7,
    )
    response.buffer.message_count = 1
    gate.script("AddMessage", response)

    added = await client.add("bot", "+49170", b"\x00")

    assert (added.outcome, added.message_id, added.sequence) == (AddOutcome.BUFFERED, "m1", 7)
    assert added.buffer_created
    assert not added.fallback_to_immediate
    assert added.fallback_reason == ""
    assert added.buffer is not None
    assert added.buffer.message_count == 1
    assert gate.calls("AddMessage")[0].message.binary == b"\x00"


async def test_a_fallback_says_why(gate: FakeGate, client: Client):
    gate.script(
        "AddMessage",
        buffer_pb2.AddMessageResponse(
            fallback_to_immediate=True,
            outcome=buffer_pb2.ADD_OUTCOME_FALLBACK,
            fallback_reason=types_pb2.ERROR_REASON_STORE_FULL,
        ),
    )
    added = await client.add("bot", "+49170", "hello")
    assert added.fallback_to_immediate
    assert added.fallback_reason == "STORE_FULL"


async def test_add_is_repeated_with_the_same_id_while_the_server_is_away(
    gate: FakeGate, client: Client
):
    gate.script("AddMessage", AWAY, AWAY)

    await client.add("bot", "+49170", "hello")

    ids = {request.message.id for request in gate.calls("AddMessage")}
    assert len(gate.calls("AddMessage")) == 3
    assert len(ids) == 1
    assert ids != {""}


async def test_each_message_without_an_id_gets_one_of_its_own(gate: FakeGate, client: Client):
    await client.add("bot", "+49170", "hello")
    await client.add("bot", "+49170", "hello")
    first, second = gate.calls("AddMessage")
    assert first.message.id != second.message.id


async def test_a_call_gives_up_after_four_tries(gate: FakeGate, client: Client):
    gate.script("GetStatus", *[AWAY] * 5)
    with pytest.raises(Unavailable, match="the store is away") as caught:
        await client.status("bot", "+49170", timeout=timedelta(seconds=10))
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert len(gate.calls("GetStatus")) == 4


async def test_pull_is_never_repeated(gate: FakeGate, client: Client):
    gate.script("Pull", AWAY)
    with pytest.raises(Unavailable):
        await client.pull("bot")
    assert len(gate.calls("Pull")) == 1


async def test_status_shows_the_parts_that_are_set(gate: FakeGate, client: Client):
    response = buffer_pb2.GetStatusResponse()
    response.current_batch.batch_id = "b1"
    gate.script("GetStatus", response)

    status = await client.status("bot", "+49170")

    assert status.current_batch is not None
    assert status.current_batch.batch_id == "b1"
    assert status.buffer is None
    assert status.last_batch is None


async def test_status_of_an_unknown_conversation_raises_not_found(gate: FakeGate, client: Client):
    gate.script("GetStatus", failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"))
    with pytest.raises(NotFound):
        await client.status("bot", "nobody")


async def test_flush_tells_whether_a_window_was_open(gate: FakeGate, client: Client):
    response = buffer_pb2.FlushResponse(flushed=True)
    response.buffer.message_count = 2
    gate.script("Flush", response, buffer_pb2.FlushResponse())

    flushed, again = await client.flush("bot", "+49170"), await client.flush("bot", "+49170")

    assert flushed.flushed
    assert flushed.buffer is not None
    assert not again.flushed
    assert again.buffer is None


async def test_pull_hands_out_batches_that_can_be_settled(gate: FakeGate, client: Client):
    gate.script("Pull", delivery_pb2.PullResponse(batches=[batch("b1"), batch("b2")]))

    first, second = await client.pull("bot", max_batches=2, wait=timedelta(0))
    await first.ack()
    async with second:
        pass

    (request,) = gate.calls("Pull")
    assert (list(request.instances), request.max_batches) == (["bot"], 2)
    assert request.HasField("wait")
    assert request.subscriber_id
    assert [call.batch_id for call in gate.calls("AckBatch")] == ["b1", "b2"]


async def test_server_info_and_stats_are_read(gate: FakeGate, client: Client):
    gate.script(
        "GetServerInfo",
        admin_pb2.GetServerInfoResponse(version="1.2.3", capabilities=["http-push"]),
    )
    gate.script("GetStats", admin_pb2.GetStatsResponse(open_buffers=4, counters={"added": 2.0}))

    info, stats = await client.server_info(), await client.stats("bot")

    assert (info.version, info.capabilities) == ("1.2.3", ("http-push",))
    assert (stats.open_buffers, stats.counters) == (4, {"added": 2.0})
    assert gate.calls("GetStats")[0].instance == "bot"


async def test_dead_letters_come_from_all_pages(gate: FakeGate, client: Client):
    one, two = admin_pb2.ListDeadLettersResponse(), admin_pb2.ListDeadLettersResponse()
    one.batches.add(batch_id="b1")
    one.next_page_token = "more"
    two.batches.add(batch_id="b2")
    gate.script("ListDeadLetters", one, two)

    assert [info.batch_id async for info in client.dead_letters("bot")] == ["b1", "b2"]
    assert [request.page_token for request in gate.calls("ListDeadLetters")] == ["", "more"]


async def test_a_batch_is_shown_with_messages_and_attempts(gate: FakeGate, client: Client):
    response = admin_pb2.GetBatchResponse(messages=batch("b1", "hello").messages)
    response.batch.batch_id = "b1"
    response.attempts.add(number=1, channel=1, error_reason="NACKED").started_at.FromSeconds(5)
    gate.script("GetBatch", response)

    details = await client.batch("b1")

    assert details.info.batch_id == "b1"
    assert [message.text for message in details.messages] == ["hello"]
    assert details.attempts[0].error_reason == "NACKED"
    assert details.attempts[0].started_at == datetime.fromtimestamp(5, UTC)
    assert details.attempts[0].ended_at is None


async def test_the_token_goes_with_every_call(gate: FakeGate):
    async with Client(gate.address, token="s3cret") as client:
        await client.stats()
        assert gate.metadata["authorization"] == "Bearer s3cret"
        async with client.subscribe("bot"):
            await gate.next_stream()
            assert gate.metadata["authorization"] == "Bearer s3cret"


async def test_a_call_ends_at_its_timeout(gate: FakeGate, client: Client):
    gate.script("GetStats", Hang())
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        await client.stats(timeout=timedelta(milliseconds=50))


async def test_a_server_that_is_not_there_is_named(tmp_path: Path):
    async with Client(f"unix:{tmp_path}/nobody") as client:
        with pytest.raises(Unavailable, match=r"no Tidegate server answers at unix:.*nobody"):
            await client.stats()


async def test_a_closed_client_says_so(client: Client):
    await client.close()
    with pytest.raises(TidegateError, match="closed; make a new one"):
        await client.stats()


async def test_closing_ends_calls_that_are_under_way(gate: FakeGate, client: Client):
    gate.script("GetStats", Hang())
    call = asyncio.create_task(client.stats(timeout=timedelta(seconds=60)))
    await gate.called("GetStats")
    await client.close()
    with pytest.raises(TidegateError, match="closed"):
        await call


async def test_cancelling_a_call_stays_a_cancellation(gate: FakeGate, client: Client):
    gate.script("GetStats", Hang())
    call = asyncio.create_task(client.stats(timeout=timedelta(seconds=60)))
    await gate.called("GetStats")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_an_own_channel_is_used_and_left_open(gate: FakeGate):
    async with grpc.aio.insecure_channel(gate.address) as channel:
        async with Client(channel=channel) as client:
            await client.stats()
        async with Client(channel=channel) as client:
            await client.stats()
    assert len(gate.calls("GetStats")) == 2


async def test_an_own_channel_that_is_closed_is_named(gate: FakeGate):
    channel = grpc.aio.insecure_channel(gate.address)
    client = Client(channel=channel)
    await channel.close()
    with pytest.raises(TidegateError, match="closed"):
        await client.stats()


async def test_a_naive_time_is_refused(client: Client):
    with pytest.raises(InvalidArgument, match="time zone") as caught:
        await client.add("bot", "+49170", "hello", occurred_at=datetime(2024, 5, 1))
    assert set(caught.value.fields) == {"message.occurred_at"}
