"""What a producer sees of limits."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2 as details

from tests.api.house import House, entry, ref, texts
from tests.api.status import failure
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.quota import Quota
from tidegate_server.store.memory import MemoryStore, World

FULL = pb.ERROR_REASON_QUOTA_EXCEEDED


@pytest.fixture
async def small(folder: Path) -> AsyncIterator[House]:
    """A server with windows of a minute, in which two messages and ten bytes may wait."""
    quota = Quota(conversation_messages=2, conversation_bytes=10, instance_messages=3)
    house = House(
        f"unix:{folder}/small", MemoryStore(World(quota=lambda _: quota)), delay_ms=60_000
    )
    await house.start()
    yield house
    await house.stop()


async def test_a_message_too_many_is_refused_with_what_is_full_and_when_to_come_again(small: House):
    await small.add("one", "two")
    failed = await failure(small.buffer.AddMessage(entry("three")))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.reason == "QUOTA_EXCEEDED"
    (violation,) = failed.details[details.QuotaFailure].violations
    assert violation.subject == "conversation"
    assert "TIDEGATE_MAX_CONVERSATION_MESSAGES" in violation.description
    wait = failed.details[details.RetryInfo].retry_delay.ToTimedelta()
    assert timedelta(seconds=1) < wait <= timedelta(minutes=1)
    assert small.metrics.refused["QUOTA_EXCEEDED"] == 1
    status = await small.buffer.GetStatus(rpc.GetStatusRequest(conversation=ref()))
    assert status.buffer.message_count == 2


async def test_a_refused_entry_spoils_none_of_its_neighbours(small: House):
    entries = [
        entry("one"),
        entry("much too long"),
        entry("two"),
        entry("one"),
        entry("three"),
        entry("hi", "bob"),
        entry("hi", "carla"),
        entry("hi", "dora", instance="other"),
    ]
    answer = await small.buffer.AddMessages(rpc.AddMessagesRequest(messages=entries))
    outcomes = [
        result.error.reason if result.HasField("error") else result.response.outcome
        for result in answer.results
    ]
    new, copy = rpc.ADD_OUTCOME_BUFFERED, rpc.ADD_OUTCOME_DUPLICATE
    assert outcomes == [new, FULL, new, copy, FULL, new, FULL, new]
    shown = [
        place for place, result in enumerate(answer.results) if result.response.HasField("buffer")
    ]
    assert shown == [3, 5, 7]
    assert answer.results[3].response.buffer.message_count == 2
    await small.buffer.Flush(rpc.FlushRequest(conversation=ref()))
    pulled = await small.pull(max_batches=1, instances=["bot"])
    assert texts(pulled.batches[0]) == ["one", "two"]


async def test_a_repeat_is_no_new_message_also_where_nothing_more_fits(small: House):
    await small.add("one", "two")
    again = await small.buffer.AddMessage(entry("one"))
    assert again.outcome == rpc.ADD_OUTCOME_DUPLICATE


async def test_a_refused_message_is_handed_back_where_the_instance_says_so(small: House):
    small.fallbacks["bot"] = "immediate"
    await small.add("one", "two")
    answer = await small.buffer.AddMessage(entry("three"))
    assert answer.fallback_to_immediate
    assert answer.fallback_reason == FULL
    assert small.metrics.fallbacks == 1


async def test_a_batch_that_is_out_leaves_room(small: House):
    await small.add("one")
    await small.add("two", flush=True)
    pulled = await small.pull(max_batches=1)
    await small.add("three", "four")
    assert texts(pulled.batches[0]) == ["one", "two"]


async def test_an_edit_may_make_a_full_buffer_smaller_and_not_larger(small: House):
    def amended(name: str, text: str) -> rpc.AmendMessageRequest:
        return rpc.AmendMessageRequest(conversation=ref(), message=pb.Message(id=name, text=text))

    await small.add("12345", "1234")
    failed = await failure(small.buffer.AmendMessage(amended("1234", "123456")))
    assert failed.reason == "QUOTA_EXCEEDED"
    answer = await small.buffer.AmendMessage(amended("12345", "1"))
    assert answer.buffer.payload_bytes == 5
