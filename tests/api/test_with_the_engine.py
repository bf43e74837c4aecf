import asyncio

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.api.house import House, texts
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2 as admin
from tidegate.v1 import types_pb2 as pb


async def test_a_burst_arrives_as_one_batch_and_is_settled(house: House):
    stream = house.subscribe()
    assert (await stream.read()).HasField("opened")
    await house.add("one", "two", "three")
    batch = (await stream.read()).batch
    assert texts(batch) == ["one", "two", "three"]
    assert (await house.ack(batch)).state == pb.BATCH_STATE_COMPLETED
    stats = await house.admin.GetStats(admin.GetStatsRequest())
    assert (stats.subscribers, stats.delivering_batches) == (1, 0)
    assert stats.counters["messages_added_total"] == 3
    stream.cancel()


async def test_a_reply_that_was_overtaken_comes_again_with_the_newer_messages(house: House):
    stream = house.subscribe()
    await stream.read()
    await house.add("one")
    batch = (await stream.read()).batch
    await house.add("two")
    failed = await failure(house.ack(batch, only_if_current=True))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SUPERSEDED")
    assert (await stream.read()).superseded.batch_id == batch.info.batch_id
    again = (await stream.read()).batch
    assert texts(again) == ["one", "two"]
    assert again.info.rebuffer_count == 1
    stream.cancel()


async def test_a_pull_that_does_not_wait_gets_what_is_ready(house: House):
    names = [f"user {n}" for n in range(5)]
    for name in names:
        await house.add("hello", conversation=name, flush=True)
    seen: list[str] = []
    while len(seen) < len(names):
        pulled = await house.pull(wait=Duration(), max_batches=100)
        assert pulled.batches
        for batch in pulled.batches:
            seen.append(batch.info.conversation.conversation)
            await house.ack(batch)
    assert sorted(seen) == names
    assert not (await house.pull(wait=Duration())).batches


async def test_a_client_that_leaves_a_pull_takes_nothing_along(house: House):
    call = house.pull()
    while not len(house.engine.subscribers):  # noqa: ASYNC110  # the engine tells nobody
        await asyncio.sleep(0.001)
    call.cancel()
    await house.add("hello")
    (batch,) = (await house.pull()).batches
    assert batch.info.attempt == 1


async def test_a_drain_ends_streams_and_pulls_and_still_takes_settlements(house: House):
    stream = house.subscribe(instances=["bot"])
    await stream.read()
    pull = house.pull(instances=["other"])
    await house.add("hello")
    batch = (await stream.read()).batch
    draining = asyncio.create_task(house.engine.drain(30))
    closing = (await stream.read()).closing
    assert closing.reason == "the server is shutting down"
    assert await stream.code() is grpc.StatusCode.OK
    assert not (await pull).batches
    await draining
    assert (await house.ack(batch)).state == pb.BATCH_STATE_COMPLETED
    failed = await failure(house.subscribe().read())
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await asyncio.wait_for(house.server.stop(grace=60), 10)
