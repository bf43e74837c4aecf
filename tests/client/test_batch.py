import asyncio
from datetime import timedelta

import grpc
import pytest

from tests.support.fake_gate import PATIENCE_S, FakeGate, batch, failure
from tidegate import Batch, Client, LeaseLost, NackAction, Unavailable
from tidegate.v1 import delivery_service_pb2 as delivery_pb2

LOST = failure(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", "the batch was given out again")
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def pull_one(
    gate: FakeGate, client: Client, *, lease: timedelta = timedelta(seconds=30)
) -> Batch:
    gate.script("Pull", delivery_pb2.PullResponse(batches=[batch("b1", "guten Tag", "hello")]))
    (pulled,) = await client.pull("bot", lease=lease)
    return pulled


async def test_a_batch_shows_what_it_holds(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    assert (pulled.id, pulled.instance, pulled.conversation) == ("b1", "bot", "+49170")
    assert (pulled.attempt, pulled.info.batch_id) == (1, "b1")
    assert [message.text for message in pulled.messages] == ["guten Tag", "hello"]


async def test_neither_payload_nor_token_nor_conversation_is_in_a_repr(
    gate: FakeGate, client: Client
):
    pulled = await pull_one(gate, client)
    shown = f"{pulled!r} {pulled.messages!r} {pulled.info!r}"
    assert "b1" in shown
    assert not any(secret in shown for secret in ("guten Tag", "hello", "token-b1", "+49170"))


async def test_ack_tells_whether_this_call_settled_the_batch(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script(
        "AckBatch",
        delivery_pb2.AckBatchResponse(),
        delivery_pb2.AckBatchResponse(already_settled=True),
    )
    assert await pulled.ack()
    assert not await pulled.ack()
    assert {call.lease_token for call in gate.calls("AckBatch")} == {"token-b1"}


async def test_nack_carries_action_delay_and_reason(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    await pulled.nack(NackAction.DEAD_LETTER, retry_delay=timedelta(minutes=2), reason="not for me")
    (request,) = gate.calls("NackBatch")
    assert request.action == NackAction.DEAD_LETTER
    assert request.retry_delay.ToTimedelta() == timedelta(minutes=2)
    assert request.reason == "not for me"


async def test_extend_moves_the_end_of_the_lease(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    response = delivery_pb2.ExtendLeaseResponse()
    response.lease_expires_at.FromSeconds(1_000)
    gate.script("ExtendLease", response)

    end = await pulled.extend(timedelta(minutes=1))

    assert end == pulled.lease_expires_at
    assert end.timestamp() == 1_000
    assert gate.calls("ExtendLease")[0].lease_duration.ToTimedelta() == timedelta(minutes=1)


async def test_a_block_that_ends_well_acknowledges(gate: FakeGate, client: Client):
    async with await pull_one(gate, client):
        pass
    assert [call.batch_id for call in gate.calls("AckBatch")] == ["b1"]
    assert not gate.calls("NackBatch")


async def test_a_block_that_raises_gives_back_without_the_text_of_the_error(
    gate: FakeGate, client: Client
):
    with pytest.raises(ZeroDivisionError):
        async with await pull_one(gate, client):
            raise ZeroDivisionError("the payload was secret")
    (request,) = gate.calls("NackBatch")
    assert (request.action, request.reason) == (NackAction.RETRY, "ZeroDivisionError")
    assert not gate.calls("AckBatch")


async def test_a_cancelled_block_releases(gate: FakeGate, client: Client):
    pulled, entered = await pull_one(gate, client), asyncio.Event()

    async def handle() -> None:
        async with pulled:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (request,) = gate.calls("NackBatch")
    assert request.action == NackAction.RELEASE


async def test_the_error_of_the_block_wins_over_one_of_giving_back(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("NackBatch", LOST)
    with pytest.raises(ZeroDivisionError):
        async with pulled:
            raise ZeroDivisionError


@pytest.mark.parametrize("settle", [Batch.ack, Batch.nack])
async def test_a_block_that_settled_is_left_alone(gate: FakeGate, client: Client, settle: str):
    async with await pull_one(gate, client) as pulled:
        await settle(pulled)  # pyright: ignore[reportCallIssue] - one of two methods
    assert len(gate.calls("AckBatch")) + len(gate.calls("NackBatch")) == 1


async def test_a_lost_lease_is_told_at_the_end_of_the_block(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", LOST)
    with pytest.raises(LeaseLost, match="given out again"):
        async with pulled:
            pass
    assert pulled.lease_lost.is_set()


async def test_an_ack_that_cannot_be_made_is_told(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", *[AWAY] * 4)
    with pytest.raises(Unavailable):
        async with pulled:
            pass


async def test_the_lease_is_extended_while_the_block_runs(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client, lease=timedelta(milliseconds=100))
    async with pulled:
        requests = await gate.called("ExtendLease", times=3)
    assert requests[0].lease_duration.ToTimedelta() == timedelta(milliseconds=100)
    assert not pulled.lease_lost.is_set()


async def test_an_extension_that_fails_is_tried_again(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client, lease=timedelta(milliseconds=100))
    gate.script("ExtendLease", failure(grpc.StatusCode.INTERNAL, ""))
    async with pulled:
        await gate.called("ExtendLease", times=3)
    assert gate.calls("AckBatch")


async def test_the_block_learns_that_its_lease_is_lost(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client, lease=timedelta(milliseconds=100))
    gate.script("ExtendLease", LOST)
    gate.script("AckBatch", LOST)
    with pytest.raises(LeaseLost):
        async with pulled, asyncio.timeout(PATIENCE_S):
            await pulled.lease_lost.wait()
    assert len(gate.calls("ExtendLease")) == 1


async def test_a_longer_lease_by_hand_is_not_shortened(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client, lease=timedelta(milliseconds=100))
    async with pulled:
        await pulled.extend(timedelta(milliseconds=200))
        requests = await gate.called("ExtendLease", times=2)
    assert requests[-1].lease_duration.ToTimedelta() == timedelta(milliseconds=200)
