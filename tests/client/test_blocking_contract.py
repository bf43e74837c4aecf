"""The blocking twin of test_commit.py and test_contract.py, in short."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import grpc
import pytest

from tests.support.fake_gate import PATIENCE_S, FakeGate, arrival, batch, failure, opened
from tidegate import (
    Added,
    AlreadySealed,
    EventKind,
    InvalidArgument,
    NackAction,
    NewMessage,
    PermissionDenied,
    Superseded,
    TidegateError,
    Unavailable,
)
from tidegate.blocking import Batch, Client
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2

Result = TypeVar("Result")

SUPERSEDED = failure(grpc.StatusCode.FAILED_PRECONDITION, "SUPERSEDED", "newer messages arrived")
SEALED = failure(grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_SEALED")
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away")


async def off_loop(work: Callable[[], Result]) -> Result:
    """Runs what blocks, while the fake goes on serving."""
    return await asyncio.wait_for(asyncio.to_thread(work), PATIENCE_S)


async def pull_one(gate: FakeGate, client: Client, *, rebuffered: int = 0) -> Batch:
    wire = batch("b1")
    wire.info.rebuffer_count = rebuffered
    gate.script("Pull", delivery_pb2.PullResponse(batches=[wire]))
    (pulled,) = await off_loop(lambda: client.pull("bot"))
    return pulled


async def test_a_commit_settles_the_batch_once(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client)

    def handle() -> None:
        with pulled:
            assert pulled.commit()

    await off_loop(handle)
    (request,) = gate.calls("AckBatch")
    assert request.only_if_current


async def test_a_block_that_was_superseded_ends_quietly(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client)
    gate.script("AckBatch", SUPERSEDED)
    sent: list[str] = []

    def handle() -> None:
        with pulled:
            pulled.commit()
            sent.append("reply")

    await off_loop(handle)
    assert sent == []
    assert pulled.superseded.is_set()
    assert not gate.calls("NackBatch")


async def test_outside_of_a_block_it_is_raised(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client)
    gate.script("AckBatch", SUPERSEDED)
    with pytest.raises(Superseded):
        await off_loop(pulled.commit)


async def test_an_error_after_a_commit_goes_on(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client, rebuffered=3)

    def handle() -> None:
        with pulled:
            pulled.commit(give_in_after=3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await off_loop(handle)
    assert not gate.calls("AckBatch")[0].only_if_current
    assert not gate.calls("NackBatch")


async def test_a_batch_in_hand_learns_of_newer_messages(gate: FakeGate, blocking_client: Client):
    newer = delivery_pb2.SubscribeResponse(superseded=delivery_pb2.BatchSuperseded(batch_id="b1"))
    unknown = delivery_pb2.SubscribeResponse(
        superseded=delivery_pb2.BatchSuperseded(batch_id="nobody")
    )
    with blocking_client.subscribe("bot") as subscription:
        stream = (await gate.next_stream()).send(opened(), arrival("b1"))
        taken = await off_loop(lambda: next(subscription))
        stream.send(unknown, newer)
        assert await off_loop(lambda: taken.superseded.wait(PATIENCE_S))
        await off_loop(lambda: taken.nack(NackAction.REBUFFER))
        await off_loop(subscription.close)
    assert gate.calls("NackBatch")[0].action == NackAction.REBUFFER


async def test_many_are_added_in_order(gate: FakeGate, blocking_client: Client):
    messages = [NewMessage("bot", "ada", "x", message_id=f"m{n}") for n in range(600)]
    messages.append(NewMessage("bot", "ada", "\ud83d"))
    added = await off_loop(lambda: blocking_client.add_many(messages))
    assert all(isinstance(result, Added) for result in added[:600])
    assert isinstance(added[600], InvalidArgument)
    assert gate.stored("ada") == [f"m{n}" for n in range(600)]


async def test_many_that_cannot_be_added_at_all_raise(gate: FakeGate, blocking_client: Client):
    gate.script("AddMessages", *[AWAY] * 4)
    with pytest.raises(Unavailable, match="the store is away"):
        await off_loop(lambda: blocking_client.add_many([NewMessage("bot", "ada", "x")]))


async def test_adds_from_several_threads_are_all_answered(gate: FakeGate, blocking_client: Client):
    def add(number: int) -> Added:
        return blocking_client.add("bot", "ada", "x", message_id=f"m{number}")

    def add_all() -> list[Added]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(add, range(50)))

    added = await off_loop(add_all)
    assert [result.message_id for result in added] == [f"m{n}" for n in range(50)]
    assert len(gate.calls("AddMessage")) == 50


async def test_a_message_can_be_changed_until_it_is_in_a_batch(
    gate: FakeGate, blocking_client: Client
):
    gate.script("HoldWindow", buffer_pb2.HoldWindowResponse(held=True))
    gate.script("Discard", buffer_pb2.DiscardResponse(discarded_count=4))
    gate.script("AmendMessage", buffer_pb2.AmendMessageResponse(), SEALED)

    def change() -> None:
        client = blocking_client
        assert client.hold("bot", "ada", timedelta(seconds=9)).held
        assert client.amend("bot", "ada", "m1", b"new").message_count == 0
        assert client.remove("bot", "ada", "m1") is None
        assert client.discard("bot", "ada") == 4
        with pytest.raises(AlreadySealed):
            client.amend("bot", "ada", "m1", "newer")

    await off_loop(change)
    assert gate.calls("AmendMessage")[0].message.binary == b"new"


async def test_the_operator_has_the_same_calls(gate: FakeGate, blocking_client: Client):
    page = admin_pb2.ListConversationsResponse()
    page.conversations.add().buffer.message_count = 2
    requeued = admin_pb2.RequeueDeadLettersResponse()
    requeued.results.add(batch_id="b1", applied=True)
    deleted = admin_pb2.DeleteDeadLettersResponse()
    deleted.results.add(batch_id="b2")
    gate.script("TrackMessage", admin_pb2.TrackMessageResponse(sequence=3))
    gate.script("ListConversations", page)
    gate.script("RequeueDeadLetters", requeued)
    gate.script("DeleteDeadLetters", deleted)
    gate.script("EraseConversation", admin_pb2.EraseConversationResponse(erased_messages=9))

    def operate() -> None:
        client = blocking_client
        assert client.track("bot", "ada", "m1").sequence == 3
        assert [info.buffer is not None for info in client.conversations()] == [True]
        assert client.requeue("b1") == {"b1": True}
        assert client.delete_dead_letters("b2") == {"b2": False}
        assert client.erase("bot", "ada") == 9

    await off_loop(operate)


async def test_the_live_tail_goes_on_after_the_server_was_away(
    gate: FakeGate, blocking_client: Client
):
    events = blocking_client.watch("bot")
    coming = asyncio.create_task(off_loop(lambda: next(events)))
    (await gate.next_stream()).send(AWAY)
    (await gate.next_stream()).send(None)
    stream = (await gate.next_stream()).send(
        admin_pb2.WatchEventsResponse(kind=admin_pb2.EVENT_KIND_LEASE_EXPIRED)
    )
    assert (await coming).kind is EventKind.LEASE_EXPIRED
    await off_loop(events.close)
    await stream.wait_over()


async def test_the_live_tail_ends_when_the_server_refuses_or_the_client_closes(
    gate: FakeGate, blocking_client: Client
):
    coming = asyncio.create_task(off_loop(lambda: next(blocking_client.watch())))
    (await gate.next_stream()).send(failure(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"))
    with pytest.raises(PermissionDenied):
        await coming
    coming = asyncio.create_task(off_loop(lambda: next(blocking_client.watch())))
    await gate.next_stream()
    await off_loop(blocking_client.close)
    with pytest.raises(TidegateError, match="closed"):
        await coming
