import asyncio
import inspect
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import grpc
import pytest

import tidegate
from tests.support.fake_gate import (
    CLOSING,
    PATIENCE_S,
    FakeGate,
    arrival,
    batch,
    failure,
    opened,
)
from tidegate import InvalidArgument, LeaseLost, NackAction, TidegateError, blocking
from tidegate.blocking import Batch, Client, Subscription
from tidegate.v1 import delivery_service_pb2 as delivery_pb2

Result = TypeVar("Result")

LOST = failure(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")


async def off_loop(work: Callable[[], Result]) -> Result:
    """Runs what blocks, while the fake goes on serving."""
    return await asyncio.wait_for(asyncio.to_thread(work), PATIENCE_S)


async def pull_one(
    gate: FakeGate, client: Client, *, lease: timedelta = timedelta(seconds=30)
) -> Batch:
    gate.script("Pull", delivery_pb2.PullResponse(batches=[batch("b1")]))
    (pulled,) = await off_loop(lambda: client.pull("bot", lease=lease))
    return pulled


@pytest.mark.parametrize("name", ["Client", "Subscription", "Batch"])
def test_the_twins_have_the_same_names_and_arguments(name: str):
    def shape(kind: type) -> dict[str, list[str]]:
        return {
            member: list(inspect.signature(function).parameters)
            for member, function in inspect.getmembers(kind, inspect.isfunction)
            if not member.startswith("_")
        }

    assert shape(getattr(tidegate, name)) == shape(getattr(blocking, name))


async def test_add_is_repeated_with_the_same_id(gate: FakeGate, blocking_client: Client):
    gate.script("AddMessage", failure(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
    await off_loop(lambda: blocking_client.add("bot", "+49170", "hello"))
    first, second = gate.calls("AddMessage")
    assert first.message.id == second.message.id != ""


async def test_a_block_that_ends_well_acknowledges(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client)

    def handle() -> None:
        with pulled:
            pass

    await off_loop(handle)
    assert [call.batch_id for call in gate.calls("AckBatch")] == ["b1"]


@pytest.mark.parametrize(
    ("error", "action"),
    [(ZeroDivisionError, NackAction.RETRY), (KeyboardInterrupt, NackAction.RELEASE)],
)
async def test_a_block_that_raises_gives_back(
    gate: FakeGate, blocking_client: Client, error: type[BaseException], action: NackAction
):
    pulled = await pull_one(gate, blocking_client)

    def handle() -> None:
        with pytest.raises(error), pulled:
            raise error

    await off_loop(handle)
    (request,) = gate.calls("NackBatch")
    assert (request.action, request.reason) == (action, error.__name__)


async def test_the_lease_is_extended_while_the_block_runs(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client, lease=timedelta(milliseconds=100))
    gate.script("ExtendLease", failure(grpc.StatusCode.INTERNAL, ""))
    leave = threading.Event()

    def handle() -> bool:
        with pulled:
            return leave.wait(PATIENCE_S)

    handling = asyncio.create_task(off_loop(handle))
    await gate.called("ExtendLease", times=4)
    leave.set()
    assert await handling
    assert not pulled.lease_lost.is_set()
    assert gate.calls("AckBatch")


async def test_the_block_learns_that_its_lease_is_lost(gate: FakeGate, blocking_client: Client):
    pulled = await pull_one(gate, blocking_client, lease=timedelta(milliseconds=100))
    gate.script("ExtendLease", LOST)
    gate.script("AckBatch", LOST)

    def handle() -> None:
        with pytest.raises(LeaseLost), pulled:
            assert pulled.lease_lost.wait(PATIENCE_S)

    await off_loop(handle)
    assert len(gate.calls("ExtendLease")) == 1


async def test_batches_come_and_can_be_settled(gate: FakeGate, blocking_client: Client):
    def consume() -> list[str]:
        with blocking_client.subscribe("bot") as subscription:
            ids: list[str] = []
            for taken in subscription:
                with taken:
                    ids.append(taken.id)
                if len(ids) == 3:
                    break
            return ids

    consumer = asyncio.create_task(off_loop(consume))
    (await gate.next_stream()).send(opened(), arrival("b1"), None)
    (await gate.next_stream()).send(opened(), arrival("b2"), CLOSING)
    (await gate.next_stream()).send(opened(), arrival("b3"))
    assert await consumer == ["b1", "b2", "b3"]
    assert [call.batch_id for call in gate.calls("AckBatch")] == ["b1", "b2", "b3"]


async def test_it_reconnects_after_three_heartbeats_of_silence(
    gate: FakeGate, blocking_client: Client
):
    with blocking_client.subscribe("bot") as subscription:
        silent = (await gate.next_stream()).send(opened(heartbeat=timedelta(milliseconds=30)))
        (await gate.next_stream()).send(opened(), arrival("b1"))
        await silent.wait_over()
        taken = await off_loop(lambda: next(subscription))
        await off_loop(taken.ack)
        await off_loop(subscription.close)


async def test_what_no_reconnect_will_mend_is_raised(gate: FakeGate, blocking_client: Client):
    with blocking_client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(
            failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", fields={"instances": "no"})
        )
        with pytest.raises(InvalidArgument) as caught:
            await off_loop(lambda: next(subscription))
    assert caught.value.fields == {"instances": "no"}


async def test_batches_that_nobody_took_are_released(gate: FakeGate, blocking_client: Client):
    subscription = blocking_client.subscribe("bot")
    with subscription:
        stream = (await gate.next_stream()).send(opened(lease=timedelta(milliseconds=100)))
        stream.send(arrival("b1"))
        await gate.called("NackBatch")
        stream.send(opened(), arrival("b2"), arrival("b3"))
        assert (await off_loop(lambda: next(subscription))).id == "b2"
        await off_loop(lambda: until_waiting(subscription, 1))
        await off_loop(subscription.close)
    nacks = gate.calls("NackBatch")
    assert [call.batch_id for call in nacks] == ["b1", "b3"]
    assert {call.action for call in nacks} == {NackAction.RELEASE}


def until_waiting(subscription: Subscription, count: int) -> None:
    with subscription._changed:
        subscription._changed.wait_for(lambda: len(subscription._waiting) >= count, PATIENCE_S)


async def test_several_threads_share_a_subscription(gate: FakeGate, blocking_client: Client):
    def consume() -> None:
        for taken in subscription:
            with taken:
                pass

    with blocking_client.subscribe("bot") as subscription:
        consumers = [asyncio.create_task(off_loop(consume)) for _ in range(3)]
        stream = (await gate.next_stream()).send(opened())
        stream.send(*(arrival(f"b{n}") for n in range(20)))
        await gate.called("AckBatch", times=20)
        await off_loop(subscription.close)
    await asyncio.gather(*consumers)
    assert len({call.batch_id for call in gate.calls("AckBatch")}) == 20


async def test_close_ends_all_threads_and_iterations(gate: FakeGate):
    client = Client(gate.address)
    subscription = client.subscribe("bot").__enter__()
    consumer = asyncio.create_task(off_loop(lambda: list(subscription)))
    (await gate.next_stream()).send(opened())
    await off_loop(client.close)
    assert await consumer == []
    assert not [t.name for t in threading.enumerate() if t.name.startswith("tidegate-")]
    with pytest.raises(TidegateError, match="closed"):
        client.stats()


async def test_a_closed_channel_ends_the_iteration_with_a_sentence(gate: FakeGate):
    channel = grpc.insecure_channel(gate.address)
    with Client(channel=channel) as client, client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened())
        channel.close()
        with pytest.raises(TidegateError, match="closed"):
            await off_loop(lambda: next(subscription))
