from typing import Any

from google.protobuf.duration_pb2 import Duration

from tests.api.conftest import Rig
from tests.api.fake import text_body
from tidegate.v1 import delivery_service_pb2 as rpc
from tidegate_server.core.model import DeliveryChannel, NackAction
from tidegate_server.sinks.stream import Closing


def request(**fields: Any) -> rpc.PullRequest:
    return rpc.PullRequest(subscriber_id="php-1", **fields)


async def test_a_pull_waits_for_its_first_batch(rig: Rig):
    call = rig.delivery.Pull(request(lease_duration=Duration(seconds=5)))
    subscriber = await rig.engine.came.get()
    assert (subscriber.max_in_flight, subscriber.lease_ms) == (1, 5000)
    assert subscriber.channel is DeliveryChannel.PULL
    subscriber.events.put_nowait(await rig.engine.batch("ann", text_body("hello")))
    (batch,) = (await call).batches
    assert batch.messages[0].message.text == "hello"
    assert await rig.engine.gone.get() is subscriber


async def test_a_pull_takes_the_ready_batches_up_to_what_it_wants(rig: Rig):
    rig.engine.ready = [await rig.engine.batch(name, text_body(name)) for name in "abc"]
    two = await rig.delivery.Pull(request(max_batches=2))
    ten = await rig.delivery.Pull(request(max_batches=10))
    assert (len(two.batches), len(ten.batches)) == (2, 3)


async def test_a_pull_without_a_batch_answers_with_none(rig: Rig):
    response = await rig.delivery.Pull(request(wait=Duration()))
    assert not response.batches
    assert not rig.engine.subscribers


async def test_a_pull_answers_before_the_deadline_of_the_call(rig: Rig):
    response = await rig.delivery.Pull(request(wait=Duration(seconds=60)), timeout=0.5)
    assert not response.batches


async def test_a_pull_answers_at_once_when_the_server_drains(rig: Rig):
    rig.engine.ready = [Closing("the server is shutting down", 1)]
    assert not (await rig.delivery.Pull(request())).batches


async def test_a_pull_stops_while_the_largest_batch_would_still_fit(rig: Rig):
    largest = [text_body("x" * 13_600)] * 250  # nearly the 3.25 MiB that a batch may have
    small = await rig.engine.batch("small", text_body("x" * 150_000))
    large = await rig.engine.batch("large", *largest)
    rig.engine.ready = [small, large, small]
    response = await rig.delivery.Pull(request(max_batches=10))
    assert len(response.batches) == 2
    assert 3_000_000 < response.ByteSize() <= 3.5 * (1 << 20)
    rig.engine.ready = [small, small, large]
    assert len((await rig.delivery.Pull(request(max_batches=10))).batches) == 2


async def test_a_pull_goes_on_after_a_batch_that_cannot_be_read(rig: Rig):
    corrupt = await rig.engine.batch("ann", b"\xff")
    rig.engine.ready = [corrupt, await rig.engine.batch("bob", text_body("hello"))]
    (batch,) = (await rig.delivery.Pull(request())).batches
    assert batch.info.conversation.conversation == "bob"
    nacked = rig.engine.nacks.get_nowait()
    assert nacked[:3] == (corrupt.info.batch_id, NackAction.DEAD_LETTER, "CORRUPT")


async def test_a_pull_that_is_cancelled_releases_what_it_took(rig: Rig):
    # It takes the first, and is burying the second when its client leaves.
    taken = await rig.engine.batch("ann", text_body("hello"))
    rig.engine.ready = [taken, await rig.engine.batch("bob", b"\xff")]
    gate = rig.engine.close_gate()
    call = rig.delivery.Pull(request(max_batches=5))
    await gate.reached.wait()
    call.cancel()
    assert await rig.engine.gone.get()
    gate.open.set()
    name, action, *_ = await rig.engine.nacks.get()
    assert (name, action) == (taken.info.batch_id, NackAction.RELEASE)
    info = (await rig.engine.store.batch(name)).info
    assert info.attempt == 0
