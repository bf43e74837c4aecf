"""What a producer and a subscriber see of one conversation, over the wire."""

import asyncio
from datetime import timedelta

import pytest

from tests.end_to_end.traffic import Reader, flush, send, settle, took, window
from tests.support.history import History
from tests.support.stores import eventually
from tidegate import (
    AddOutcome,
    Batch,
    BatchState,
    BufferState,
    Client,
    FlushReason,
    InvalidArgument,
    NackAction,
    NotFound,
    WindowMode,
    WindowPolicy,
)

SOON = window(0.15)
LATER = window(60)
HOUR = timedelta(hours=1)


def texts(batch: Batch) -> list[str]:
    return [message.text for message in batch.messages]


async def pull(gate: Client, history: History, instance: str) -> Batch:
    (batch,) = await gate.pull(instance, wait=timedelta(seconds=5))
    took(history, batch)
    return batch


async def test_a_burst_becomes_one_batch_in_the_order_of_arrival(gate: Client, history: History):
    chat = ("burst", "anna")
    async with Reader(gate, history, "burst") as reader:
        for n in range(5):
            added = await send(gate, history, chat, f"m{n}", payload=f"text {n}", policy=SOON)
            assert added.buffer_created == (n == 0)
        await eventually(history.drained)
    (batch,) = reader.batches
    assert texts(batch) == [f"text {n}" for n in range(5)]
    assert (batch.instance, batch.conversation, batch.attempt) == ("burst", "anna", 1)
    assert batch.info.flush_reason is FlushReason.DELAY


async def test_a_payload_arrives_byte_for_byte_with_all_that_came_with_it(gate: Client):
    chat = ("bytes", "x:{p7}/ü 😀")
    payload = bytes(range(256)) * 4
    await gate.add(*chat, payload, message_id="binary")
    await gate.add(
        *chat, "", message_id="text", content_type="text/x", attributes={"k": "v"}, flush=True
    )
    (batch,) = await gate.pull("bytes", wait=timedelta(seconds=5))
    binary, text = batch.messages
    assert (binary.binary, binary.content_type) == (payload, "application/octet-stream")
    assert (text.payload, text.content_type, text.attributes) == ("", "text/x", {"k": "v"})
    assert batch.conversation == chat[1]
    assert await batch.ack()


async def test_a_call_may_bring_its_own_window(gate: Client, history: History):
    async with Reader(gate, history, "own-window") as reader:
        slow, quick = ("own-window", "slow"), ("own-window", "quick")
        await send(gate, history, slow, "s", policy=window(0.6))
        added = await send(gate, history, quick, "q", policy=window(0.1, grace_s=0.05))
        assert added.buffer
        assert added.buffer.policy.delay == timedelta(seconds=0.1)
        assert added.buffer.policy.grace == timedelta(seconds=0.05)
        await eventually(history.drained)
    assert [batch.conversation for batch in reader.batches] == ["quick", "slow"]


async def test_the_message_that_opens_a_window_decides_on_it(gate: Client, history: History):
    chat = ("opener", "anna")
    async with Reader(gate, history, "opener") as reader:
        await send(gate, history, chat, "m1", policy=SOON)
        await send(gate, history, chat, "m2", policy=LATER)
        await eventually(history.drained)
    assert len(reader.batches) == 1


async def test_a_sliding_window_moves_with_each_message_up_to_its_bound(
    gate: Client, history: History
):
    policy = WindowPolicy(
        mode=WindowMode.SLIDING,
        delay=timedelta(seconds=0.3),
        max_wait=timedelta(seconds=0.6),
    )
    chat, sent = ("sliding", "anna"), 0
    async with Reader(gate, history, "sliding") as reader:
        while not reader.batches:
            await send(gate, history, chat, f"m{sent}", policy=policy)
            sent += 1
            await asyncio.sleep(0.05)
        await eventually(history.drained)
    first = reader.batches[0].info
    assert first.flush_reason is FlushReason.MAX_WAIT
    assert first.due_at - first.opened_at == timedelta(seconds=0.6)
    assert first.message_count > 2


async def test_a_window_closes_at_its_number_of_messages_and_the_rest_follows(
    gate: Client, history: History
):
    chat, policy = ("count", "anna"), window(0.3, most=3)
    async with Reader(gate, history, "count") as reader:
        adds = (send(gate, history, chat, f"m{n}", policy=policy) for n in range(7))
        await asyncio.gather(*adds)
        await eventually(history.drained)
    assert [batch.info.message_count for batch in reader.batches] == [3, 3, 1]
    reasons = [batch.info.flush_reason for batch in reader.batches]
    assert reasons == [FlushReason.MAX_MESSAGES, FlushReason.MAX_MESSAGES, FlushReason.DELAY]


async def test_a_window_closes_before_it_exceeds_its_bytes(gate: Client, history: History):
    chat = ("size", "anna")
    policy = WindowPolicy(delay=timedelta(seconds=0.3), max_bytes=1000)
    async with Reader(gate, history, "size") as reader:
        for n in range(3):
            await send(gate, history, chat, f"m{n}", payload="x" * 400, policy=policy)
        await eventually(history.drained)
    assert [batch.info.payload_bytes for batch in reader.batches] == [800, 400]
    assert reader.batches[0].info.flush_reason is FlushReason.MAX_BYTES


async def test_a_message_can_close_its_window(gate: Client, history: History):
    chat = ("stop-word", "anna")
    async with Reader(gate, history, "stop-word") as reader:
        await send(gate, history, chat, "m1", policy=LATER)
        await send(gate, history, chat, "m2", policy=LATER, flush=True)
        await eventually(history.drained)
    (batch,) = reader.batches
    assert (batch.info.message_count, batch.info.flush_reason) == (2, FlushReason.REQUESTED)


async def test_a_call_can_close_a_window_and_its_repeat_changes_nothing(
    gate: Client, history: History
):
    chat = ("flush", "anna")
    await send(gate, history, chat, "m1", policy=LATER)
    assert await flush(gate, history, chat)
    assert not await flush(gate, history, chat)
    batch = await pull(gate, history, "flush")
    assert await settle(history, batch)
    assert not await flush(gate, history, chat)


async def test_an_id_is_taken_once_before_and_after_its_batch(gate: Client, history: History):
    chat = ("twice", "anna")
    async with Reader(gate, history, "twice") as reader:
        first = await send(gate, history, chat, "m1", policy=SOON)
        copies = (send(gate, history, chat, "m1", payload="other", policy=SOON) for _ in range(3))
        for again in await asyncio.gather(*copies):
            assert again.outcome is AddOutcome.DUPLICATE
            assert again.sequence == first.sequence
            assert not again.buffer_created
        await eventually(history.drained)
        late = await send(gate, history, chat, "m1", policy=SOON)
        assert (late.outcome, late.buffer) == (AddOutcome.DUPLICATE, None)
        await send(gate, history, chat, "m2", policy=SOON)
        await eventually(history.drained)
    assert [texts(batch) for batch in reader.batches] == [["payload of m1"], ["payload of m2"]]


async def test_the_same_id_in_another_conversation_or_instance_is_another_message(
    gate: Client, history: History
):
    async with Reader(gate, history, "same-id-1", "same-id-2") as reader:
        for chat in (("same-id-1", "a"), ("same-id-1", "b"), ("same-id-2", "a")):
            await send(gate, history, chat, "m1", policy=SOON)
        await eventually(history.drained)
    assert len(reader.batches) == 3


async def test_status_tells_the_whole_life_of_a_message(gate: Client, history: History):
    chat = ("status", "anna")
    with pytest.raises(NotFound):
        await gate.status(*chat)

    await send(gate, history, chat, "m1", policy=window(0.3))
    opened = await gate.status(*chat)
    assert opened.buffer
    assert (opened.buffer.state, opened.buffer.message_count) == (BufferState.OPEN, 1)
    assert opened.current_batch is opened.last_batch is None

    async def is_due() -> bool:
        buffer = (await gate.status(*chat)).buffer
        return buffer is not None and buffer.state is BufferState.DUE

    await eventually(is_due)
    batch = await pull(gate, history, "status")
    delivering = await gate.status(*chat)
    assert delivering.buffer is None
    assert delivering.current_batch
    assert delivering.current_batch.batch_id == batch.id
    assert delivering.current_batch.state is BatchState.DELIVERING

    await send(gate, history, chat, "m2", policy=window(0.05))
    both = await gate.status(*chat)
    assert both.buffer
    assert both.current_batch
    assert both.current_batch.batch_id == batch.id

    assert await settle(history, batch, nack=NackAction.RETRY, reason="not today")
    waiting = (await gate.status(*chat)).current_batch
    assert waiting
    assert (waiting.state, waiting.last_error_reason) == (BatchState.RETRY_SCHEDULED, "NACKED")
    assert waiting.next_attempt_at

    assert await settle(history, await pull(gate, history, "status"))
    settled = (await gate.status(*chat)).last_batch
    assert settled
    assert (settled.batch_id, settled.state) == (batch.id, BatchState.COMPLETED)
    assert settled.attempt == 2
    assert settled.settled_at

    following = await pull(gate, history, "status")
    assert texts(following) == ["payload of m2"]
    assert await settle(history, following)
    end = await gate.status(*chat)
    assert end.buffer is end.current_batch is None
    assert end.last_batch
    assert end.last_batch.batch_id == following.id


async def test_what_is_processed_can_be_looked_at_for_a_while(gate: Client, history: History):
    await send(gate, history, ("details", "anna"), "m1", policy=SOON)
    batch = await pull(gate, history, "details")
    assert await settle(history, batch)
    details = await gate.batch(batch.id)
    assert details.info.state is BatchState.COMPLETED
    assert [message.text for message in details.messages] == ["payload of m1"]
    assert [(attempt.number, attempt.error_reason) for attempt in details.attempts] == [(1, "")]


async def test_a_mistake_in_a_request_names_the_field_and_stores_nothing(gate: Client):
    with pytest.raises(InvalidArgument) as refused:
        await gate.add("mistake", "anna", "x", policy=WindowPolicy(delay=2 * HOUR))
    assert list(refused.value.fields) == ["policy.delay"]
    with pytest.raises(NotFound):
        await gate.status("mistake", "anna")


async def test_an_acknowledgement_may_be_repeated(gate: Client, history: History):
    await send(gate, history, ("again", "anna"), "m1", policy=SOON)
    batch = await pull(gate, history, "again")
    assert await settle(history, batch)
    assert await batch.ack() is False
