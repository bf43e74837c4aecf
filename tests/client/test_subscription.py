import asyncio
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.support.fake_gate import (
    CLOSING,
    HEARTBEAT,
    PATIENCE_S,
    FakeGate,
    arrival,
    failure,
    fake_gate,
    opened,
)
from tidegate import (
    Batch,
    Client,
    InvalidArgument,
    NackAction,
    PermissionDenied,
    ServerError,
    Subscription,
    TidegateError,
    Unauthenticated,
)
from tidegate.v1 import delivery_service_pb2 as delivery_pb2


async def take(subscription: Subscription) -> Batch:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(subscription)


async def test_a_subscription_asks_for_what_was_given(gate: FakeGate, client: Client):
    async with client.subscribe(
        "bot", "other", subscriber_id="pod-1", max_in_flight=3, lease=timedelta(minutes=1)
    ):
        request = (await gate.next_stream()).request
    assert (request.subscriber_id, list(request.instances)) == ("pod-1", ["bot", "other"])
    assert request.max_in_flight == 3
    assert request.lease_duration.ToTimedelta() == timedelta(minutes=1)


async def test_batches_come_in_order_and_can_be_settled(gate: FakeGate, client: Client):
    async with client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), arrival("b1"), HEARTBEAT, arrival("b2"))
        taken = [await take(subscription), await take(subscription)]
        for batch in taken:
            await batch.ack()
    assert [call.batch_id for call in gate.calls("AckBatch")] == ["b1", "b2"]
    assert not gate.calls("NackBatch")


async def test_unknown_events_are_ignored(gate: FakeGate, client: Client):
    superseded = delivery_pb2.SubscribeResponse(superseded=delivery_pb2.BatchSuperseded())
    unknown = delivery_pb2.SubscribeResponse.FromString(b"\xfa\x07\x00")
    async with client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), superseded, unknown, arrival("b1"))
        assert (await take(subscription)).id == "b1"


@pytest.mark.parametrize(
    "ending",
    [None, failure(grpc.StatusCode.UNAVAILABLE, "DRAINING"), failure(grpc.StatusCode.INTERNAL, "")],
)
async def test_it_reconnects_after_an_abrupt_end(gate: FakeGate, client: Client, ending: object):
    async with client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), arrival("b1"), ending)  # pyright: ignore[reportArgumentType] - of three types
        held = await take(subscription)
        (await gate.next_stream()).send(opened(), arrival("b2"))
        assert (await take(subscription)).id == "b2"
        assert await held.ack()


async def test_it_reconnects_when_the_server_is_gone_for_a_while(gate: FakeGate, client: Client):
    async with client.subscribe("bot") as subscription:
        for _ in range(3):
            stream = await gate.next_stream()
            stream.send(failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
        (await gate.next_stream()).send(opened(), arrival("b1"))
        assert (await take(subscription)).id == "b1"


async def test_it_finds_a_server_that_was_restarted(tmp_path: Path):
    async with Client(f"unix:{tmp_path}/gate.sock") as client, client.subscribe() as subscription:
        for batch_id in ("b1", "b2"):
            async with fake_gate(tmp_path) as gate:
                (await gate.next_stream()).send(opened(), arrival(batch_id))
                assert await (await take(subscription)).ack()


async def test_it_moves_on_at_once_when_the_stream_is_closing(gate: FakeGate, client: Client):
    async with client.subscribe("bot") as subscription:
        old = (await gate.next_stream()).send(opened(), arrival("b1"), CLOSING)
        new = await gate.next_stream()
        await old.wait_over()
        new.send(opened(), arrival("b2"))
        assert [(await take(subscription)).id for _ in range(2)] == ["b1", "b2"]
    assert not gate.calls("NackBatch")


async def test_it_reconnects_after_three_heartbeats_of_silence(gate: FakeGate, client: Client):
    async with client.subscribe("bot") as subscription:
        silent = (await gate.next_stream()).send(opened(heartbeat=timedelta(milliseconds=30)))
        (await gate.next_stream()).send(opened(), arrival("b1"))
        await silent.wait_over()
        assert (await take(subscription)).id == "b1"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
    ],
)
async def test_what_no_reconnect_will_mend_is_raised_to_every_consumer(
    gate: FakeGate, client: Client, code: grpc.StatusCode, kind: type[TidegateError]
):
    async with client.subscribe("bot") as subscription:
        consumers = [asyncio.create_task(take(subscription)) for _ in range(2)]
        (await gate.next_stream()).send(failure(code, ""))
        for consumer in consumers:
            with pytest.raises(kind):
                await consumer
    assert len(gate.calls("Subscribe")) == 1


async def test_batches_that_nobody_took_are_released_at_the_end(gate: FakeGate, client: Client):
    async with client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened(), arrival("b1"), arrival("b2"), arrival("b3"))
        held = await take(subscription)
        assert (await take(subscription)).id == "b2"
        await until_waiting(subscription, 1)
    (request,) = gate.calls("NackBatch")
    assert (request.batch_id, request.action) == ("b3", NackAction.RELEASE)
    assert await held.ack()


async def until_waiting(subscription: Subscription, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S), subscription._changed:
        await subscription._changed.wait_for(lambda: len(subscription._waiting) >= count)


async def test_a_batch_that_nobody_takes_is_released_at_half_of_its_lease(
    gate: FakeGate, client: Client
):
    async with client.subscribe("bot") as subscription:
        stream = await gate.next_stream()
        stream.send(opened(lease=timedelta(milliseconds=100)), arrival("b1"))
        (request,) = await gate.called("NackBatch")
        assert (request.batch_id, request.action) == ("b1", NackAction.RELEASE)
        stream.send(opened(), arrival("b2"))
        assert (await take(subscription)).id == "b2"
    assert len(gate.calls("NackBatch")) == 1


async def test_no_new_stream_is_opened_while_enough_batches_wait(gate: FakeGate, client: Client):
    async with client.subscribe("bot", max_in_flight=2) as subscription:
        first = await gate.next_stream()
        first.send(opened(), arrival("b1"), arrival("b2"), CLOSING)
        await first.wait_over()
        await until_waiting(subscription, 2)
        assert len(gate.calls("Subscribe")) == 1
        await take(subscription)
        await gate.next_stream()


async def test_several_consumers_share_a_subscription(gate: FakeGate, client: Client):
    seen: list[tuple[int, str]] = []

    async def consume(number: int, subscription: Subscription) -> None:
        async for batch in subscription:
            async with batch:
                seen.append((number, batch.id))

    async with client.subscribe("bot") as subscription:
        consumers = [asyncio.create_task(consume(n, subscription)) for n in range(3)]
        stream = (await gate.next_stream()).send(opened())
        stream.send(*(arrival(f"b{n}") for n in range(20)))
        await gate.called("AckBatch", times=20)
    await asyncio.wait_for(asyncio.gather(*consumers), PATIENCE_S)

    assert sorted(batch for _, batch in seen) == sorted(f"b{n}" for n in range(20))
    assert len({request.batch_id for request in gate.calls("AckBatch")}) == 20


async def test_the_iteration_ends_when_the_client_closes(gate: FakeGate, client: Client):
    subscription = client.subscribe("bot")
    async with subscription:
        consumer = asyncio.create_task(take(subscription))
        stream = (await gate.next_stream()).send(opened())
        await client.close()
        with pytest.raises(StopAsyncIteration):
            await consumer
        await stream.wait_over()


async def test_a_closed_channel_ends_the_iteration_with_a_sentence(gate: FakeGate):
    channel = grpc.aio.insecure_channel(gate.address)
    async with Client(channel=channel) as client, client.subscribe("bot") as subscription:
        (await gate.next_stream()).send(opened())
        await channel.close()
        with pytest.raises(TidegateError, match="closed"):
            await take(subscription)


async def test_a_subscription_wants_to_be_entered_once(client: Client):
    subscription = client.subscribe("bot")
    with pytest.raises(TidegateError, match="enter the subscription first"):
        await anext(subscription)
    async with subscription:
        with pytest.raises(TidegateError, match="only once"):
            await subscription.__aenter__()
