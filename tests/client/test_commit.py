import asyncio
from datetime import timedelta

import grpc
import pytest

from tests.support.fake_gate import PATIENCE_S, FakeGate, arrival, batch, failure, opened
from tidegate import Batch, Client, LeaseLost, NackAction, Superseded, Unavailable
from tidegate.v1 import delivery_service_pb2 as delivery_pb2

SUPERSEDED = failure(grpc.StatusCode.FAILED_PRECONDITION, "SUPERSEDED", "newer messages arrived")
LOST = failure(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


def newer(batch_id: str) -> delivery_pb2.SubscribeResponse:
    return delivery_pb2.SubscribeResponse(
        superseded=delivery_pb2.BatchSuperseded(batch_id=batch_id)
    )


async def pull_one(gate: FakeGate, client: Client, *, rebuffered: int = 0) -> Batch:
    wire = batch("b1")
    wire.info.rebuffer_count = rebuffered
    gate.script("Pull", delivery_pb2.PullResponse(batches=[wire]))
    (pulled,) = await client.pull("bot")
    return pulled


async def test_a_commit_settles_the_batch_once(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    async with pulled:
        assert await pulled.commit()
    (request,) = gate.calls("AckBatch")
    assert (request.batch_id, request.lease_token) == ("b1", "token-b1")
    assert request.only_if_current


async def test_an_ack_does_not_ask_whether_the_batch_is_current(gate: FakeGate, client: Client):
    await (await pull_one(gate, client)).ack()
    assert not gate.calls("AckBatch")[0].only_if_current


async def test_a_block_that_was_superseded_ends_quietly(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", SUPERSEDED)
    sent: list[str] = []
    async with pulled:
        await pulled.commit()
        sent.append("reply")
    assert sent == []
    assert pulled.superseded.is_set()
    assert not pulled.lease_lost.is_set()
    assert len(gate.calls("AckBatch")) == 1
    assert not gate.calls("NackBatch")


async def test_a_loop_goes_on_after_a_batch_that_was_superseded(gate: FakeGate, client: Client):
    gate.script("AckBatch", SUPERSEDED)
    sent: list[str] = []
    async with asyncio.timeout(PATIENCE_S), client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), arrival("b1"), arrival("b2"))
        async for taken in subscription:
            async with taken:
                await taken.commit()
                sent.append(taken.id)
            if sent:
                break
    assert sent == ["b2"]


async def test_outside_of_a_block_it_is_raised(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", SUPERSEDED)
    with pytest.raises(Superseded, match="newer messages"):
        await pulled.commit()


async def test_a_block_may_look_at_it_and_pass_it_on(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", SUPERSEDED)
    seen: list[Superseded] = []
    async with pulled:
        try:
            await pulled.commit()
        except Superseded as error:
            seen.append(error)
            raise
    assert len(seen) == 1


async def test_only_its_own_error_is_swallowed(gate: FakeGate, client: Client):
    outer, inner = await pull_one(gate, client), await pull_one(gate, client)
    gate.script("AckBatch", SUPERSEDED)
    with pytest.raises(Superseded):
        async with outer:
            await inner.commit()
    (request,) = gate.calls("NackBatch")
    assert request.action == NackAction.RETRY


async def test_another_error_after_it_goes_on(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", SUPERSEDED)

    async def handle() -> None:
        async with pulled:
            try:
                await pulled.commit()
            except Superseded as error:
                raise ZeroDivisionError from error

    with pytest.raises(ZeroDivisionError):
        await handle()
    assert not gate.calls("NackBatch")


async def test_an_error_after_a_commit_goes_on_and_the_batch_stays_settled(
    gate: FakeGate, client: Client
):
    pulled = await pull_one(gate, client)

    async def handle() -> None:
        async with pulled:
            await pulled.commit()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await handle()
    assert not gate.calls("NackBatch")


@pytest.mark.parametrize(
    ("rebuffered", "give_in_after", "asks"),
    [(0, None, True), (9, None, True), (2, 3, True), (3, 3, False), (4, 3, False), (0, 0, False)],
)
async def test_it_gives_in_from_that_count_on(
    gate: FakeGate, client: Client, rebuffered: int, give_in_after: int | None, asks: bool
):
    pulled = await pull_one(gate, client, rebuffered=rebuffered)
    await pulled.commit(give_in_after=give_in_after)
    assert gate.calls("AckBatch")[0].only_if_current is asks


async def test_a_commit_that_cannot_be_made_gives_the_batch_back(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", *[AWAY] * 4)
    with pytest.raises(Unavailable):
        async with pulled:
            await pulled.commit()
    assert len(gate.calls("NackBatch")) == 1


async def test_a_commit_on_a_lost_lease_is_told(gate: FakeGate, client: Client):
    pulled = await pull_one(gate, client)
    gate.script("AckBatch", LOST)
    with pytest.raises(LeaseLost):
        async with pulled:
            await pulled.commit()
    assert pulled.lease_lost.is_set()
    assert not gate.calls("NackBatch")


async def test_rebuffer_is_an_answer_like_the_others(gate: FakeGate, client: Client):
    await (await pull_one(gate, client)).nack(NackAction.REBUFFER)
    assert gate.calls("NackBatch")[0].action == delivery_pb2.NACK_ACTION_REBUFFER


async def test_a_batch_in_hand_learns_of_newer_messages(gate: FakeGate, client: Client):
    async with asyncio.timeout(PATIENCE_S), client.subscribe("bot") as subscription:
        stream = (await gate.next_stream()).send(opened(), arrival("b1"), arrival("b2"))
        async with await anext(subscription) as held:
            stream.send(newer("nobody"), newer("b1"))
            await held.superseded.wait()
        other = await anext(subscription)
        assert not other.superseded.is_set()
        await other.ack()


async def test_a_batch_that_waits_learns_it_as_well(gate: FakeGate, client: Client):
    async with asyncio.timeout(PATIENCE_S), client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), arrival("b1"), newer("b1"), arrival("b2"))
        first, second = await anext(subscription), await anext(subscription)
        assert first.superseded.is_set()
        assert not second.superseded.is_set()
        await first.nack(NackAction.RELEASE)
        await second.ack(timeout=timedelta(seconds=5))
