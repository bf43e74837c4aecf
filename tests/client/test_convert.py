from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tidegate import (
    AddOutcome,
    BatchState,
    BufferState,
    EventKind,
    FlushReason,
    InvalidArgument,
    NackAction,
    WindowMode,
    WindowPolicy,
    _decode,
    _encode,
)
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

PAIRS: list[tuple[Any, Any]] = [
    (WindowMode, types_pb2.WindowMode),
    (BufferState, types_pb2.BufferState),
    (FlushReason, types_pb2.FlushReason),
    (BatchState, types_pb2.BatchState),
    (AddOutcome, buffer_pb2.AddOutcome),
    (NackAction, delivery_pb2.NackAction),
    (EventKind, admin_pb2.EventKind),
]


def add(payload: Any = "hello", **more: Any) -> buffer_pb2.AddMessageRequest:
    return _encode.add_request("bot", "+49170", payload, message_id="m1", **more)


@pytest.mark.parametrize(("ours", "wire"), PAIRS)
def test_the_enums_are_those_of_the_contract(ours: Any, wire: Any):
    names = dict(wire.items())
    prefix = next(name for name, number in names.items() if number == 0).removesuffix("UNSPECIFIED")
    assert {f"{prefix}{member.name}": member.value for member in ours} == names


def test_what_is_not_given_stays_unset():
    request = add()
    assert not request.HasField("policy")
    assert not request.message.HasField("occurred_at")
    policy = add(policy=WindowPolicy()).policy
    assert policy == types_pb2.WindowPolicy()


def test_a_length_of_zero_is_sent_and_read_as_zero():
    policy = add(policy=WindowPolicy(delay=timedelta(0), max_wait=timedelta(seconds=1.5))).policy
    read = _decode.window_policy(policy)
    assert (read.delay, read.grace, read.max_wait) == (timedelta(0), None, timedelta(seconds=1.5))


def test_an_empty_text_is_a_text_and_empty_bytes_are_bytes():
    assert add("").message.WhichOneof("payload") == "text"
    assert add(b"").message.WhichOneof("payload") == "binary"


@pytest.mark.parametrize("payload", ["", "hello", "שלום\x00👋", b"", b"\xff\x00"])
def test_a_payload_comes_back_as_it_was(payload: str | bytes):
    read = _decode.received_message(types_pb2.BufferedMessage(message=add(payload).message))
    assert read.payload == payload
    assert read.text == (payload if isinstance(payload, str) else "")
    assert read.binary == (payload if isinstance(payload, bytes) else b"")


def test_times_are_read_in_utc_and_unset_ones_as_none():
    east = timezone(timedelta(hours=2))
    wire = types_pb2.BufferedMessage(
        message=add(occurred_at=datetime(2024, 5, 1, 14, tzinfo=east)).message
    )
    read = _decode.received_message(wire)
    assert read.occurred_at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert read.received_at.tzinfo is UTC
    assert read.amended_at is None


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"payload": "\ud83d"}, "surrogate"),
        ({"payload": None}, "does not fit"),
        ({"payload": 5}, "does not fit"),
        ({"attributes": {"n": 5}}, "does not fit"),
        ({"occurred_at": datetime(2024, 5, 1)}, "time zone"),
        ({"policy": WindowPolicy(max_bytes=2**40)}, "does not fit"),
        ({"policy": WindowPolicy(delay=8)}, "timedelta"),  # pyright: ignore[reportArgumentType] - the mistake that is tested
    ],
)
def test_what_the_wire_cannot_carry_is_refused_with_a_sentence(
    broken: dict[str, Any], sentence: str
):
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        add(**broken)
    assert caught.value.reason == "INVALID_FIELD"


def test_unknown_values_of_an_enum_are_read_as_unspecified():
    info = types_pb2.BatchInfo.FromString(b"\x18\x63\x58\x63")
    assert (info.state, info.flush_reason) == (99, 99)
    read = _decode.batch_info(info)
    assert (read.state, read.flush_reason) == (BatchState.UNSPECIFIED, FlushReason.UNSPECIFIED)


@pytest.mark.parametrize(("number", "reason"), [(0, ""), (10, "STORE_UNAVAILABLE"), (99, "")])
def test_a_fallback_reason_is_read_as_its_name(number: Any, reason: str):
    response = buffer_pb2.AddMessageResponse(fallback_to_immediate=True, fallback_reason=number)
    assert _decode.added(response).fallback_reason == reason


def test_every_field_of_a_batch_is_read():
    wire = types_pb2.BatchInfo(
        batch_id="b1",
        conversation=types_pb2.ConversationRef(instance="bot", conversation="+49170"),
        state=types_pb2.BATCH_STATE_RETRY_SCHEDULED,
        message_count=2,
        payload_bytes=10,
        first_sequence=5,
        last_sequence=6,
        flush_reason=types_pb2.FLUSH_REASON_DELAY,
        attempt=1,
        max_attempts=4,
        last_error_reason="NACKED",
        last_error_message="it failed",
        rebuffer_count=3,
    )
    times = ("opened_at", "due_at", "sealed_at", "next_attempt_at", "settled_at", "expires_at")
    for second, name in enumerate(times, start=1):
        getattr(wire, name).FromSeconds(second)

    read = _decode.batch_info(wire)

    for field in types_pb2.BatchInfo.DESCRIPTOR.fields:
        if field.name not in (*times, "conversation"):
            assert getattr(read, field.name) == getattr(wire, field.name), field.name
    assert (read.instance, read.conversation) == ("bot", "+49170")
    for second, name in enumerate(times, start=1):
        assert getattr(read, name) == datetime.fromtimestamp(second, UTC)


def test_an_age_of_nothing_is_zero():
    assert _decode.stats(admin_pb2.GetStatsResponse()).oldest_due_age == timedelta(0)
