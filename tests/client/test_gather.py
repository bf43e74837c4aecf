import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.support.fake_gate import (
    PATIENCE_S,
    FakeGate,
    Hang,
    Lost,
    Normal,
    Wait,
    failure,
    fake_gate,
)
from tidegate import (
    Added,
    AddOutcome,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    TidegateError,
    Unauthenticated,
    Unavailable,
    _gather,
)
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import types_pb2

AWAY = failure(grpc.StatusCode.UNAVAILABLE, "DRAINING", "the server is shutting down")
UNKNOWN_CALL = failure(grpc.StatusCode.UNIMPLEMENTED, "")
LONG = timedelta(seconds=PATIENCE_S)


async def add(client: Client, number: int, *, of: str = "ada", **more: Any) -> Added:
    return await client.add("bot", of, "x", message_id=f"m{number}", timeout=LONG, **more)


def adding(client: Client, *numbers: int, of: str = "ada") -> list[asyncio.Task[Added]]:
    return [asyncio.create_task(add(client, number, of=of)) for number in numbers]


async def results(tasks: list[asyncio.Task[Added]]) -> list[Added]:
    return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)


def names(*numbers: int) -> list[str]:
    return [f"m{number}" for number in numbers]


def refusals(*errors: buffer_pb2.AddError | None) -> buffer_pb2.StreamMessagesResponse:
    """An answer with these errors; None stands for an entry that is taken."""
    taken = buffer_pb2.AddMessageResponse(success=True, message_id="taken")
    entries = [
        buffer_pb2.AddResult(error=e) if e else buffer_pb2.AddResult(response=taken) for e in errors
    ]
    return buffer_pb2.StreamMessagesResponse(results=entries)


async def test_adds_one_after_the_other_are_unary(gate: FakeGate, client: Client):
    for number in range(3):
        await add(client, number)
    assert len(gate.calls("AddMessage")) == 3
    assert gate.add_streams == 0


async def test_adds_at_the_same_time_share_one_request(gate: FakeGate, client: Client):
    answers = await results(adding(client, *range(50)))
    assert [answer.message_id for answer in answers] == names(*range(50))
    assert gate.stored("ada") == names(*range(50))
    assert len(gate.calls("AddMessage")) == 1
    assert [len(request.messages) for request in gate.calls("StreamMessages")] == [49]


async def test_what_comes_while_requests_are_under_way_forms_the_next_one(
    gate: FakeGate, client: Client
):
    release = asyncio.Event()
    gate.script("AddMessage", Wait(release))
    gate.script("StreamMessages", *[Wait(release)] * 4)
    tasks = adding(client, 0, of="alone")
    for number in range(1, 5):
        tasks += adding(client, number, of=f"user{number}")
        await asyncio.sleep(0)
    await gate.called("StreamMessages")
    tasks += adding(client, *range(5, 45), of="late")
    release.set()
    await results(tasks)
    assert sum(len(r.messages) for r in gate.calls("StreamMessages")) == 44
    assert len(gate.calls("StreamMessages")) <= 5
    assert gate.stored("late") == names(*range(5, 45))


async def test_a_request_has_at_most_512_entries_and_a_mebibyte(gate: FakeGate, client: Client):
    await results(adding(client, *range(1400)))
    sizes = [len(request.messages) for request in gate.calls("StreamMessages")]
    assert sizes == [512, 512, 375]

    payload = "x" * 300_000
    await asyncio.gather(*(client.add("bot", f"user{n}", payload, timeout=LONG) for n in range(8)))
    later = gate.calls("StreamMessages")[3:]
    assert sum(len(request.messages) for request in later) == 7
    assert all(request.ByteSize() <= (1 << 20) + 10_000 for request in later)


async def test_a_message_too_large_for_a_request_goes_alone_and_in_order(
    gate: FakeGate, client: Client
):
    tasks = adding(client, 0)
    large = client.add("bot", "ada", b"x" * (2 << 20), message_id="m1", timeout=LONG)
    tasks.append(asyncio.create_task(large))
    tasks += adding(client, 2)
    await results(tasks)
    assert gate.stored("ada") == names(0, 1, 2)
    assert len(gate.calls("AddMessage")) == 2


async def test_a_gathered_add_does_not_overtake_a_unary_one_of_its_conversation(
    gate: FakeGate, client: Client
):
    release = asyncio.Event()
    gate.script("AddMessage", Wait(release))
    first = adding(client, 1)
    await gate.called("AddMessage")
    later = adding(client, 2, 3)
    await results(adding(client, 4, of="grace"))
    assert gate.stored("ada") == []
    release.set()
    await results(first + later)
    assert gate.stored("ada") == names(1, 2, 3)


async def test_cancelling_one_in_between_keeps_the_order_of_the_others(
    gate: FakeGate, client: Client
):
    release = asyncio.Event()
    gate.script("AddMessage", Wait(release))
    first = adding(client, 1)
    await gate.called("AddMessage")
    second, third = adding(client, 2, 3)
    await results(adding(client, 4, of="grace"))
    second.cancel()
    await asyncio.wait([second])
    await results(adding(client, 5, of="grace"))
    assert not third.done()
    release.set()
    await results([*first, third])
    assert gate.stored("ada") == names(1, 3)


async def test_each_entry_has_its_own_error(gate: FakeGate, client: Client):
    reasons = types_pb2.ErrorReason
    gate.script(
        "StreamMessages",
        refusals(
            None,
            buffer_pb2.AddError(code=3, reason=reasons.Value("ERROR_REASON_MESSAGE_TOO_LARGE")),
            buffer_pb2.AddError(code=8, reason=reasons.Value("ERROR_REASON_QUOTA_EXCEEDED")),
            buffer_pb2.AddError(code=7, message="that instance is not yours"),
        ),
    )
    tasks = adding(client, *range(5))
    _, good, large, full, denied = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(good, Added)
    assert isinstance(large, InvalidArgument)
    assert large.reason == "MESSAGE_TOO_LARGE"
    assert isinstance(full, ResourceExhausted)
    assert full.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(denied, PermissionDenied)
    assert str(denied) == "that instance is not yours"


async def test_an_entry_that_the_store_did_not_take_is_tried_again_in_order(
    gate: FakeGate, client: Client
):
    away = buffer_pb2.AddError(
        code=14, reason=types_pb2.ErrorReason.Value("ERROR_REASON_STORE_UNAVAILABLE")
    )
    gate.script("StreamMessages", refusals(away, away, None))
    tasks = adding(client, 0, of="alone") + adding(client, 1, 2) + adding(client, 3, of="grace")
    await gate.called("StreamMessages")
    tasks += adding(client, 4)
    await results(tasks)
    assert gate.stored("ada") == names(1, 2, 4)


async def test_a_store_that_stays_away_is_told_after_four_tries(gate: FakeGate, client: Client):
    away = buffer_pb2.AddError(
        code=14,
        reason=types_pb2.ErrorReason.Value("ERROR_REASON_STORE_UNAVAILABLE"),
        message="the store is away",
    )
    gate.script("StreamMessages", *[refusals(away)] * 4)
    _, gathered = adding(client, 0, of="alone") + adding(client, 1)
    with pytest.raises(Unavailable, match="the store is away") as caught:
        await asyncio.wait_for(gathered, PATIENCE_S)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert len(gate.calls("StreamMessages")) == 4


@pytest.mark.parametrize("end", [None, AWAY, failure(grpc.StatusCode.INTERNAL, "")])
async def test_a_thousand_adds_survive_a_stream_that_breaks(
    gate: FakeGate, client: Client, end: Any
):
    gate.script("StreamMessages", Normal(), Lost(end), Normal(), Lost(end), AWAY)
    users = [f"user{n}" for n in range(10)]

    async def call(number: int) -> Added:
        # In waves, so that several requests are under way when the stream breaks.
        for _ in range(number // 100):
            await asyncio.sleep(0)
        return await add(client, number, of=users[number % 10])

    answers = await results([asyncio.create_task(call(number)) for number in range(1000)])

    assert [answer.message_id for answer in answers] == names(*range(1000))
    sent: dict[str, int] = defaultdict(int)
    for request in gate.calls("StreamMessages"):
        for entry in request.messages:
            sent[entry.message.id] += 1
    assert max(sent.values()) > 1
    for number, user in enumerate(users):
        assert gate.stored(user) == names(*range(number, 1000, 10))
    assert gate.add_streams > 1


async def test_a_server_that_stays_away_is_told_after_four_tries(gate: FakeGate, client: Client):
    gate.script("StreamMessages", *[AWAY] * 4)
    _, gathered = adding(client, 0, of="alone") + adding(client, 1)
    with pytest.raises(Unavailable, match="shutting down"):
        await asyncio.wait_for(gathered, PATIENCE_S)
    assert len(gate.calls("StreamMessages")) == 4


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
async def test_a_server_without_the_stream_is_called_unary_and_in_order(
    gate: FakeGate, client: Client, code: grpc.StatusCode
):
    # More than once: a write that finds the stream closed hides the reason.
    gate.script("StreamMessages", *[failure(code, "")] * 3)
    first = adding(client, *range(50)) + adding(client, 100, of="grace")
    await gate.called("StreamMessages")
    second = adding(client, *range(50, 60))
    answers = await results(first + second)
    assert {answer.outcome for answer in answers} == {AddOutcome.BUFFERED}
    assert gate.stored("ada") == names(*range(60))
    assert len(gate.calls("AddMessage")) == 61


async def test_a_refused_token_is_told_to_each(gate: FakeGate, client: Client):
    gate.script("StreamMessages", failure(grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS"))
    gate.script("AddMessage", Normal(), failure(grpc.StatusCode.UNAUTHENTICATED, "BAD_CREDENTIALS"))
    first, second = adding(client, 1, 2)
    await asyncio.wait_for(first, PATIENCE_S)
    with pytest.raises(Unauthenticated):
        await asyncio.wait_for(second, PATIENCE_S)


async def test_answers_that_do_not_match_are_not_believed(gate: FakeGate, client: Client):
    gate.script("StreamMessages", buffer_pb2.StreamMessagesResponse(correlation_id=99))
    await results(adding(client, *range(10)))
    assert gate.stored("ada") == names(*range(10))


async def test_a_silent_stream_is_given_up(
    gate: FakeGate, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_gather, "SILENCE_S", 0.1)
    gate.script("StreamMessages", Hang())
    await results(adding(client, *range(10)))
    assert gate.stored("ada") == names(*range(10))
    assert len(gate.calls("AddMessage")) == 10


async def test_the_stream_is_tried_again_later(
    gate: FakeGate, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_gather, "UNARY_S", 0)
    gate.script("StreamMessages", UNKNOWN_CALL)
    await results(adding(client, *range(10)))
    await results(adding(client, *range(10, 20)))
    assert len(gate.calls("StreamMessages")[-1].messages) == 9


async def test_a_gathered_add_ends_at_its_timeout(gate: FakeGate, client: Client):
    gate.script("StreamMessages", Hang())
    alone = asyncio.create_task(add(client, 1, of="alone"))
    await asyncio.sleep(0)
    late = client.add("bot", "ada", "x", timeout=timedelta(milliseconds=50))
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        await late
    await alone


async def test_time_spent_behind_an_earlier_add_counts(gate: FakeGate, client: Client):
    gate.script("AddMessage", Normal(), Hang())
    gate.script("StreamMessages", UNKNOWN_CALL)
    await results(adding(client, 1, of="alone"))
    hanging = adding(client, 2)
    await gate.called("AddMessage", 2)
    with pytest.raises(DeadlineExceeded):
        await client.add("bot", "ada", "x", timeout=timedelta(milliseconds=50))
    hanging[0].cancel()
    await asyncio.wait(hanging)


async def test_a_cancelled_add_stays_cancelled_and_the_others_are_answered(
    gate: FakeGate, client: Client
):
    release = asyncio.Event()
    gate.script("StreamMessages", Wait(release))
    tasks = adding(client, *range(5))
    await gate.called("StreamMessages")
    tasks[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    release.set()
    await results([task for task in tasks if task is not tasks[2]])


async def test_a_cancelled_add_that_was_not_sent_is_never_sent(gate: FakeGate, client: Client):
    tasks = adding(client, *range(5))
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert gate.stored("ada") == names(0, 1, 3, 4)


async def test_an_idle_stream_ends_and_the_next_is_opened_when_needed(
    gate: FakeGate, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_gather, "IDLE_S", 0.05)
    await results(adding(client, *range(10)))
    await gate.until_no_add_stream()
    await results(adding(client, *range(10, 20)))
    assert gate.add_streams == 2


async def test_a_server_that_ends_an_idle_stream_is_not_called_again_until_needed(
    gate: FakeGate, client: Client
):
    await results(adding(client, *range(10)))
    await gate.end_add_streams()
    await results(adding(client, *range(10, 20)))
    assert gate.stored("ada") == names(*range(20))
    assert gate.add_streams == 2


async def test_gathered_adds_find_a_server_that_was_restarted(tmp_path: Any):
    async with Client(f"unix:{tmp_path}/gate.sock") as client:
        for _ in range(2):
            async with fake_gate(tmp_path) as gate:
                await results(adding(client, *range(20)))
                assert gate.stored("ada") == names(*range(20))


async def test_closing_ends_gathered_adds_with_a_sentence(gate: FakeGate, client: Client):
    gate.script("StreamMessages", Hang())
    tasks = adding(client, *range(5))
    await gate.called("StreamMessages")
    await client.close()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for error in done[1:]:
        assert isinstance(error, TidegateError)
        assert "closed" in str(error)


async def test_a_channel_that_is_closed_ends_gathered_adds(gate: FakeGate):
    gate.script("StreamMessages", Hang())
    channel = grpc.aio.insecure_channel(gate.address)
    async with Client(channel=channel) as client:
        tasks = adding(client, *range(3))
        await gate.called("StreamMessages")
        await results(tasks[:1])
        await channel.close()
        done = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert all(isinstance(error, TidegateError) for error in done)


async def test_nothing_is_remembered_of_adds_that_are_over(gate: FakeGate, client: Client):
    gate.script("StreamMessages", Normal(), Lost(AWAY), UNKNOWN_CALL)
    tasks = adding(client, *range(20)) + adding(client, *range(20, 40), of="grace")
    await asyncio.sleep(0)
    tasks[7].cancel()
    await asyncio.wait(tasks)
    gatherer = client._gatherer
    assert not gatherer._newest
    assert not gatherer._waiting
    assert not gatherer._in_flight
    assert gatherer._under_way == 0
