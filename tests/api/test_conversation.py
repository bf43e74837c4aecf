import grpc
import pytest
from google.rpc import error_details_pb2 as details

from tests.api.conftest import Rig
from tests.api.fake import text_body
from tests.api.status import failure
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb

ANN = pb.ConversationRef(instance="bot", conversation="ann")


async def test_the_status_tells_of_the_buffer_and_of_the_batch_in_progress(rig: Rig):
    batch = await rig.engine.batch("ann", text_body("hello"))
    message = pb.Message(id="late", text="are you there")
    await rig.buffer.AddMessage(
        rpc.AddMessageRequest(instance="bot", conversation="ann", message=message)
    )
    status = await rig.buffer.GetStatus(rpc.GetStatusRequest(conversation=ANN))
    assert status.buffer.message_count == 1
    current = status.current_batch
    assert current.batch_id == batch.info.batch_id
    assert current.conversation == ANN
    assert current.state == pb.BATCH_STATE_DELIVERING
    assert (current.attempt, current.max_attempts) == (1, 4)
    assert not status.HasField("last_batch")
    await rig.engine.store.ack(batch.info.batch_id, batch.token)
    status = await rig.buffer.GetStatus(rpc.GetStatusRequest(conversation=ANN))
    assert not status.HasField("current_batch")
    assert status.last_batch.state == pb.BATCH_STATE_COMPLETED
    assert status.last_batch.HasField("settled_at")


async def test_a_conversation_that_never_was_is_not_found_and_not_named(rig: Rig):
    failed = await failure(rig.buffer.GetStatus(rpc.GetStatusRequest(conversation=ANN)))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    assert failed.reason == "NOT_FOUND"
    assert failed.details[details.ResourceInfo].resource_type == "conversation"
    assert "ann" not in failed.text


async def test_flush_closes_an_open_window_and_is_harmless_without_one(rig: Rig):
    request = rpc.FlushRequest(conversation=ANN)
    response = await rig.buffer.Flush(request)
    assert not response.flushed
    assert not response.HasField("buffer")
    message = pb.Message(text="hello")
    await rig.buffer.AddMessage(
        rpc.AddMessageRequest(instance="bot", conversation="ann", message=message)
    )
    response = await rig.buffer.Flush(request)
    assert response.flushed
    assert response.buffer.state == pb.BUFFER_STATE_DUE


@pytest.mark.parametrize(
    ("ref", "field"),
    [
        (None, "conversation"),
        (pb.ConversationRef(conversation="ann"), "conversation.instance"),
        (pb.ConversationRef(instance="bot"), "conversation.conversation"),
        (pb.ConversationRef(instance="bot", conversation="\0"), "conversation.conversation"),
    ],
)
@pytest.mark.parametrize("method", ["GetStatus", "Flush"])
async def test_a_bad_conversation_is_refused_by_its_path(
    rig: Rig, method: str, ref: pb.ConversationRef | None, field: str
):
    request = getattr(rpc, f"{method}Request")(conversation=ref)
    failed = await failure(getattr(rig.buffer, method)(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]
