import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.api.conftest import Rig
from tests.api.house import PATIENCE_S, House, entry, ref, texts, until
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2 as admin
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api.buffer import MOST_ENTRIES, MOST_UNDER_WAY, BufferService
from tidegate_server.api.intake import Intake, IntakeRules
from tidegate_server.api.rpc import Call
from tidegate_server.core.access import EVERYTHING
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import StoreFull, StoreUnavailable, TidegateError
from tidegate_server.store.base import AddResult

BAD = rpc.AddMessageRequest(instance="b t", conversation="ann", message=pb.Message(text="x"))
HUGE = entry("x" * 1001, name="huge")


async def add(to: Any, *entries: rpc.AddMessageRequest) -> list[rpc.AddResult]:
    return list((await to.buffer.AddMessages(rpc.AddMessagesRequest(messages=entries))).results)


async def test_many_messages_are_answered_in_their_order(rig: Rig):
    entries = [entry(f"{n}", f"user {n % 3}") for n in range(10)]
    results = await add(rig, *entries)
    assert [result.response.message_id for result in results] == [f"{n}" for n in range(10)]
    assert all(result.response.success for result in results)
    sequences = [result.response.sequence for result in results]
    assert sequences == sorted(set(sequences))
    shown = [n for n, result in enumerate(results) if result.response.HasField("buffer")]
    assert shown == [7, 8, 9]
    assert results[9].response.buffer.message_count == 4
    assert rig.metrics.added == 10


async def test_a_bad_entry_spoils_none_of_its_neighbours(rig: Rig):
    no_message = rpc.AddMessageRequest(instance="bot", conversation="ann")
    results = await add(rig, entry("1"), BAD, entry("2"), HUGE, no_message, entry("3"))
    assert [result.WhichOneof("result") for result in results] == [
        *("response", "error", "response", "error", "error", "response")
    ]
    codes = {result.error.code for result in results if result.HasField("error")}
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert results[1].error.reason == pb.ERROR_REASON_INVALID_FIELD
    assert results[1].error.message.startswith("instance: ")
    assert results[3].error.reason == pb.ERROR_REASON_MESSAGE_TOO_LARGE
    assert [message.id for message in rig.engine.added] == ["1", "2", "3"]
    assert rig.metrics.refused == {"INVALID_FIELD": 2, "MESSAGE_TOO_LARGE": 1}


async def test_all_may_be_bad(rig: Rig):
    results = await add(rig, BAD, HUGE)
    assert all(result.HasField("error") for result in results)
    assert rig.engine.added == []


async def test_a_copy_in_the_same_request_is_a_duplicate(rig: Rig):
    first, copy = await add(rig, entry("1"), entry("1"))
    assert first.response.outcome == rpc.ADD_OUTCOME_BUFFERED
    assert copy.response.outcome == rpc.ADD_OUTCOME_DUPLICATE
    assert copy.response.sequence == first.response.sequence


@pytest.mark.parametrize("count", [0, MOST_ENTRIES + 1])
async def test_none_or_too_many_are_refused(rig: Rig, count: int):
    request = rpc.AddMessagesRequest(messages=[entry("x")] * count)
    failed = await failure(rig.buffer.AddMessages(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["messages"]
    assert rig.engine.added == []


@pytest.mark.parametrize(
    ("error", "falls_back"),
    [
        (StoreFull("the store is out of memory"), True),
        (StoreUnavailable("the store cannot be reached"), True),
        (StoreUnavailable("no answer in time", maybe_done=True), False),
    ],
)
async def test_each_falls_back_by_the_policy_of_its_own_instance(
    rig: Rig, error: TidegateError, falls_back: bool
):
    rig.engine.failure = error
    rig.fallbacks["soft"] = "immediate"
    hard, bad, soft = await add(rig, entry("1"), BAD, entry("2", instance="soft"))
    reason = pb.ErrorReason.Value(f"ERROR_REASON_{error.reason}")
    assert hard.error.reason == reason
    assert bad.error.reason == pb.ERROR_REASON_INVALID_FIELD
    if falls_back:
        assert soft.response.fallback_to_immediate
        assert soft.response.fallback_reason == reason
        assert soft.response.message_id == "2"
    else:
        assert soft.error.reason == reason


async def test_a_store_that_answers_too_late_is_told_per_entry(rig: Rig):
    gate = rig.engine.close_gate()
    request = rpc.AddMessagesRequest(messages=[entry("1"), BAD])
    late, bad = (await rig.buffer.AddMessages(request, timeout=0.3)).results
    assert late.error.reason == pb.ERROR_REASON_STORE_UNAVAILABLE
    assert late.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert bad.error.reason == pb.ERROR_REASON_INVALID_FIELD
    gate.open.set()


async def test_the_turn_of_a_conversation_arrives_in_the_order_of_the_request(house: House):
    stream = await house.opened()
    await add(house, *(entry(f"{n}") for n in range(50)))
    assert texts((await stream.read()).batch) == [f"{n}" for n in range(50)]
    stream.cancel()


def request(number: int, *entries: rpc.AddMessageRequest) -> rpc.StreamMessagesRequest:
    return rpc.StreamMessagesRequest(correlation_id=number, messages=entries)


async def read(stream: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await stream.read()


async def answers(stream: Any) -> list[rpc.StreamMessagesResponse]:
    async with asyncio.timeout(PATIENCE_S):
        return [response async for response in stream]


class Counted:
    """Requests of which it is known how many gRPC has asked for."""

    def __init__(self, requests: Iterable[rpc.StreamMessagesRequest]):
        self._requests = requests
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[rpc.StreamMessagesRequest]:
        for one in self._requests:
            self.asked += 1
            yield one


async def test_a_stream_answers_each_request_in_order(house: House):
    stream = house.buffer.StreamMessages()
    for n in range(20):
        await stream.write(request(n, entry(f"{n} a"), BAD, entry(f"{n} b", f"user {n}")))
    await stream.done_writing()
    responses = await answers(stream)
    assert [response.correlation_id for response in responses] == list(range(20))
    for response in responses:
        good, bad, other = response.results
        assert good.response.success
        assert other.response.success
        assert bad.error.reason == pb.ERROR_REASON_INVALID_FIELD
    sequences = [response.results[0].response.sequence for response in responses]
    assert sequences == sorted(sequences)
    assert await stream.code() is grpc.StatusCode.OK


async def test_an_answer_does_not_wait_for_the_next_request(house: House):
    stream = house.buffer.StreamMessages()
    for n in range(3):
        await stream.write(request(n, entry(f"{n}")))
        assert (await read(stream)).correlation_id == n
    await stream.done_writing()
    assert await read(stream) is grpc.aio.EOF


async def test_requests_under_way_are_answered_in_order_whatever_the_store_does(rig: Rig):
    gates = [asyncio.Event() for _ in range(MOST_UNDER_WAY)]
    asked: list[int] = []
    add_as_always = rig.engine.add

    async def slow(messages: Sequence[Any]) -> list[AddResult]:
        number = int(messages[0].id)
        asked.append(number)
        await gates[number].wait()
        return await add_as_always(messages)

    rig.engine.add = slow
    stream = rig.buffer.StreamMessages()
    for n in range(MOST_UNDER_WAY):
        await stream.write(request(n, entry(f"{n}")))
    await until(lambda: len(asked) == MOST_UNDER_WAY)
    for gate in reversed(gates):
        gate.set()
        await asyncio.sleep(0.01)
    await stream.done_writing()
    responses = await answers(stream)
    assert [response.correlation_id for response in responses] == list(range(MOST_UNDER_WAY))


class FakeCall:
    """A call whose client takes no more responses than it has `room` for."""

    def __init__(self) -> None:
        self.access = EVERYTHING
        self.metadata: dict[str, str] = {}
        self.room = asyncio.Semaphore(0)
        self.written: list[int] = []

    async def in_time(self, work: Any) -> Any:
        return await work

    async def write(self, response: rpc.StreamMessagesResponse) -> None:
        await self.room.acquire()
        self.written.append(response.correlation_id)


async def test_no_more_is_read_than_may_be_under_way(rig: Rig):
    engine, call = cast(Engine, rig.engine), FakeCall()
    rules = IntakeRules(lambda _: WindowPolicy(), lambda _: "error", lambda _: None, 1_000)
    service = BufferService(engine, Intake(engine, rig.metrics, rules), max_attempts=4)
    counted = Counted(request(n, entry(f"{n}")) for n in range(20))
    stream = service.stream_messages(aiter(counted), cast(Call, call))
    handler = asyncio.create_task(stream)
    for taken in range(10):
        await asyncio.sleep(0.01)
        assert (len(call.written), counted.asked) == (taken, taken + MOST_UNDER_WAY)
        call.room.release()
    for _ in range(20):
        call.room.release()
    await handler
    assert call.written == list(range(20))


async def test_a_store_that_hangs_stops_the_reading_of_a_stream(rig: Rig):
    gate = rig.engine.close_gate()
    entries = [[entry("x" * 900, name=f"{n} {m}") for m in range(400)] for n in range(80)]
    counted = Counted(request(n, *many) for n, many in enumerate(entries))
    stream = rig.buffer.StreamMessages(aiter(counted))
    async with asyncio.timeout(PATIENCE_S):
        await gate.reached.wait()
    before = -1
    while before != counted.asked:
        before = counted.asked
        await asyncio.sleep(0.2)
    assert counted.asked < 80
    stream.cancel()


@pytest.mark.parametrize("count", [0, MOST_ENTRIES + 1])
async def test_a_request_with_none_or_too_many_ends_the_stream_after_its_answers(
    house: House, count: int
):
    stream = house.buffer.StreamMessages()
    await stream.write(request(1, entry("good")))
    await stream.write(request(2, *[entry("x")] * count))
    assert (await read(stream)).correlation_id == 1
    failed = await failure(stream.read())
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["messages"]


async def test_what_is_no_request_ends_the_stream(house: House):
    method = "/tidegate.v1.BufferService/StreamMessages"
    call: Any = house.channel.stream_stream(method)(iter([b"\xff"]))
    failed = await failure(call.read())
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["request"]


async def test_a_client_that_leaves_leaves_nothing_running(rig: Rig):
    gate = rig.engine.close_gate()
    before = asyncio.all_tasks()
    stream = rig.buffer.StreamMessages()
    for n in range(3):
        await stream.write(request(n, entry(f"{n}")))
    await gate.reached.wait()
    stream.cancel()
    await until(lambda: not {t for t in asyncio.all_tasks() - before if "_answer" in repr(t)})


async def test_a_drain_ends_the_stream_when_what_was_read_is_answered(rig: Rig):
    gate = rig.engine.close_gate()
    stream = rig.buffer.StreamMessages()
    await stream.write(request(1, entry("1")))
    await gate.reached.wait()
    rig.engine.drain_begun.set()
    gate.open.set()
    responses = await answers(stream)
    assert [response.correlation_id for response in responses] == [1]
    assert responses[0].results[0].response.success
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_draining_server_takes_no_messages_and_does_all_else(house: House):
    house.fallbacks["soft"] = "immediate"
    await add(house, entry("before", "bob"))
    await house.engine.drain(0)
    failed = await failure(house.buffer.AddMessage(entry("1")))
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    soft = await house.buffer.AddMessage(entry("1", instance="soft"))
    assert soft.fallback_to_immediate
    assert soft.fallback_reason == pb.ERROR_REASON_DRAINING
    hard, other = await add(house, entry("1"), entry("1", instance="soft"))
    assert hard.error.reason == pb.ERROR_REASON_DRAINING
    assert other.response.fallback_to_immediate
    assert await answers(house.buffer.StreamMessages(iter([request(1, entry("1"))]))) == []
    status = rpc.GetStatusRequest(conversation=ref())
    assert (await failure(house.buffer.GetStatus(status))).reason == "NOT_FOUND"
    assert (await house.admin.GetStats(admin.GetStatsRequest())).buffered_messages == 1
    hold = rpc.HoldWindowRequest(conversation=status.conversation, hold_for=Duration(seconds=1))
    assert not (await house.buffer.HoldWindow(hold)).held
