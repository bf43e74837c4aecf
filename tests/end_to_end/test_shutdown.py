"""SIGTERM: nobody is left in the dark, nothing is lost, nothing stays behind."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from tests.end_to_end.traffic import Load, Reader, send, settle, took, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tidegate import Batch, Client
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import delivery_service_pb2_grpc as delivery_grpc

MINUTE = timedelta(minutes=1)


async def test_a_stream_is_told_that_it_closes_and_then_ends_well(tmp_path: Path):
    async with Server(tmp_path) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = delivery_grpc.DeliveryServiceStub(channel)
        stream = stub.Subscribe(delivery_pb2.SubscribeRequest(subscriber_id="test"))
        events = aiter(stream)
        assert (await anext(events)).WhichOneof("event") == "opened"
        os.kill(server.pid, signal.SIGTERM)
        closing = (await anext(events)).closing
        assert closing.reason == "the server is shutting down"
        assert closing.HasField("closes_at")
        assert await anext(events, None) is None
        assert await stream.code() is grpc.StatusCode.OK
        assert await server.ended() == 0


async def test_a_long_poll_is_answered_when_the_server_stops(tmp_path: Path):
    async with Server(tmp_path) as server, Client(server.target) as gate:
        poll = asyncio.create_task(gate.pull("bot", wait=MINUTE))

        async def polls() -> bool:
            return (await gate.stats()).subscribers == 1

        await eventually(polls)
        assert await server.terminate() == 0
        assert await poll == []


async def test_a_server_that_stops_under_load_loses_nothing_and_repeats_nothing(
    tmp_path: Path, history: History
):
    async with Server(tmp_path) as server, Client(server.target) as gate:
        async with Reader(gate, history, "bot", lease=MINUTE) as reader:
            async with Load([gate], history, "bot") as load:
                for _ in range(3):
                    await load.more(200)
                    assert await server.terminate() == 0
                    await server.start()
            await eventually(history.drained, within_s=20)
        delivered = [batch.id for batch in reader.batches]
        assert len(delivered) == len(set(delivered))
        assert await server.terminate() == 0
    assert "Traceback" not in server.output()


async def test_a_batch_that_is_in_flight_can_be_settled_after_a_restart(
    tmp_path: Path, history: History
):
    async with Server(tmp_path) as server, Client(server.target) as gate:
        await send(gate, history, ("bot", "anna"), "m1", policy=window(0))
        (batch,) = await gate.pull("bot")
        took(history, batch)
        assert await server.terminate() == 0
        await server.start()
        assert await settle(history, batch)


async def test_what_waits_at_a_server_that_stops_goes_to_another_one_at_once(
    tmp_path: Path, history: History
):
    held: list[Batch] = []

    async def hold(batch: Batch) -> None:
        held.append(batch)

    async with (
        StoreProcess() as store,
        Server(tmp_path / "a", store_url=store.user_url) as leaving,
        Server(tmp_path / "b", store_url=store.user_url) as staying,
        Client(leaving.target) as one,
        Client(staying.target) as other,
    ):
        async with Reader(one, history, "bot", answer=hold, max_in_flight=2, lease=MINUTE):
            for n in range(6):
                await send(one, history, ("bot", f"user {n}"), f"m{n}", policy=window(0))
            await eventually(lambda: len(held) == 2)
            async with Reader(other, history, "bot") as reader:
                assert await leaving.terminate() == 0
                await eventually(lambda: len(reader.batches) == 4)
        await leaving.start()
        assert [await settle(history, batch) for batch in held] == [True, True]
