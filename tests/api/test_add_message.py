from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as details

from tests.api.conftest import Rig
from tests.api.status import failure
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.model import Conversation, WindowMode, WindowPolicy
from tidegate_server.errors import Draining, QuotaExceeded, StoreFull, StoreUnavailable

Change = Callable[[rpc.AddMessageRequest], Any]


def request(change: Change | None = None, **message: Any) -> rpc.AddMessageRequest:
    fields: dict[str, Any] = {"id": "wamid.1", "text": "hello", **message}
    made = rpc.AddMessageRequest(
        instance="bot-1", conversation="+49 170 1", message=pb.Message(**fields)
    )
    if change:
        change(made)
    return made


def policy(**fields: Any) -> Change:
    return lambda made: made.policy.CopyFrom(pb.WindowPolicy(**fields))


def attributes(**given: str) -> Change:
    return lambda made: made.message.attributes.update(given)


async def test_a_message_is_stored_and_its_buffer_is_told(rig: Rig):
    response = await rig.buffer.AddMessage(request())
    assert response.success
    assert response.buffer_created
    assert not response.fallback_to_immediate
    assert response.outcome == rpc.ADD_OUTCOME_BUFFERED
    assert response.message_id == "wamid.1"
    assert response.sequence > 0
    buffer = response.buffer
    assert buffer.state == pb.BUFFER_STATE_OPEN
    assert (buffer.message_count, buffer.payload_bytes) == (1, 5)
    assert buffer.flush_at.ToMilliseconds() - buffer.opened_at.ToMilliseconds() == 8000
    assert buffer.policy.delay.ToMilliseconds() == 8000
    assert buffer.policy.max_bytes == 1 << 20
    assert rig.metrics.added == 1
    assert rig.metrics.add_seconds.count == 1


async def test_the_same_id_again_is_a_duplicate(rig: Rig):
    first = await rig.buffer.AddMessage(request())
    again = await rig.buffer.AddMessage(request())
    assert again.success
    assert not again.buffer_created
    assert again.outcome == rpc.ADD_OUTCOME_DUPLICATE
    assert again.sequence == first.sequence
    assert (rig.metrics.added, rig.metrics.duplicates) == (1, 1)


async def test_a_message_without_an_id_is_given_one(rig: Rig):
    ids = {(await rig.buffer.AddMessage(request(id=""))).message_id for _ in range(2)}
    assert len(ids) == 2
    assert all(len(name) == 32 for name in ids)
    assert {message.id for message in rig.engine.added} == ids


@pytest.mark.parametrize(
    ("payload", "media_type"),
    [
        ({"text": "héllo"}, "text/plain"),
        ({"text": ""}, "text/plain"),
        ({"binary": b"\x00\xff"}, "application/octet-stream"),
        ({"binary": b"x", "content_type": "image/png"}, "image/png"),
    ],
)
async def test_the_store_keeps_the_message_as_it_came(
    rig: Rig, payload: dict[str, Any], media_type: str
):
    made = request()
    made.message.ClearField("text")
    made.message.MergeFrom(pb.Message(**payload, occurred_at=Timestamp(seconds=5, nanos=7)))
    made.message.attributes["sender"] = "Ann"
    await rig.buffer.AddMessage(made)
    (stored,) = rig.engine.added
    kept = pb.BufferedMessage.FromString(stored.body)
    made.message.content_type = media_type
    assert kept.message == made.message
    assert kept.message.WhichOneof("payload") == made.message.WhichOneof("payload")
    assert stored.conversation == Conversation("bot-1", "+49 170 1")
    size = payload.get("binary") or payload.get("text", "").encode()
    assert stored.payload_bytes == len(size)


async def test_the_trace_of_the_call_is_kept_with_the_message(rig: Rig):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = (("traceparent", parent), ("tracestate", "vendor=1"))
    await rig.buffer.AddMessage(request(), metadata=metadata)
    await rig.buffer.AddMessage(request(id="2"), metadata=(("traceparent", "nonsense"),))
    kept, bare = [pb.BufferedMessage.FromString(message.body) for message in rig.engine.added]
    assert (kept.traceparent, kept.tracestate) == (parent, "vendor=1")
    assert not bare.traceparent


async def test_fields_that_the_contract_does_not_have_are_not_stored(rig: Rig):
    raw = request().SerializeToString()
    message = pb.Message(id="1", text="hello").SerializeToString() + b"\xa2\x06\x03abc"
    raw = rpc.AddMessageRequest(instance="bot", conversation="c").SerializeToString()
    raw += b"\x1a" + bytes([len(message)]) + message
    await rig.channel.unary_unary("/tidegate.v1.BufferService/AddMessage")(raw)
    (stored,) = rig.engine.added
    assert b"abc" not in stored.body


async def test_flush_goes_with_the_message(rig: Rig):
    response = await rig.buffer.AddMessage(request(lambda made: setattr(made, "flush", True)))
    assert response.buffer.state == pb.BUFFER_STATE_DUE


DEFAULT = WindowPolicy()


@pytest.mark.parametrize(
    ("given", "in_force"),
    [
        (policy(), DEFAULT),
        (policy(mode=2), WindowPolicy(mode=WindowMode.SLIDING)),
        (policy(mode=7), DEFAULT),
        (policy(delay=Duration()), WindowPolicy(delay_ms=0, grace_ms=0)),
        (policy(delay=Duration(seconds=1)), WindowPolicy(delay_ms=1000, grace_ms=1000)),
        (policy(delay=Duration(seconds=60)), WindowPolicy(delay_ms=60_000, max_wait_ms=60_000)),
        (policy(delay=Duration(nanos=1)), WindowPolicy(delay_ms=1, grace_ms=1)),
        (policy(grace=Duration()), WindowPolicy(grace_ms=0)),
        (policy(max_wait=Duration(seconds=86_400)), WindowPolicy(max_wait_ms=86_400_000)),
        (policy(max_messages=500, max_bytes=1), WindowPolicy(max_messages=500, max_bytes=1)),
    ],
)
async def test_a_policy_overrides_the_default_field_by_field(
    rig: Rig, given: Change, in_force: WindowPolicy
):
    await rig.buffer.AddMessage(request(given))
    assert rig.engine.added[0].policy == in_force


BAD: list[tuple[str, Change, str]] = [
    ("no instance", lambda m: m.ClearField("instance"), "instance"),
    ("a space in the instance", lambda m: setattr(m, "instance", "a b"), "instance"),
    ("a newline after the instance", lambda m: setattr(m, "instance", "a\n"), "instance"),
    ("a long instance", lambda m: setattr(m, "instance", "a" * 129), "instance"),
    ("no conversation", lambda m: m.ClearField("conversation"), "conversation"),
    ("a long conversation", lambda m: setattr(m, "conversation", "é" * 257), "conversation"),
    ("C0 in the conversation", lambda m: setattr(m, "conversation", "a\x1f"), "conversation"),
    ("DEL in the conversation", lambda m: setattr(m, "conversation", "a\x7f"), "conversation"),
    ("C1 in the conversation", lambda m: setattr(m, "conversation", "a\x85"), "conversation"),
    ("no message", lambda m: m.ClearField("message"), "message"),
    ("no payload", lambda m: m.message.ClearField("text"), "message.payload"),
    ("a long id", lambda m: setattr(m.message, "id", "i" * 129), "message.id"),
    ("a control character in the id", lambda m: setattr(m.message, "id", "\n"), "message.id"),
    (
        "a long content type",
        lambda m: setattr(m.message, "content_type", "t" * 256),
        "message.content_type",
    ),
    (
        "a newline in the content type",
        lambda m: setattr(m.message, "content_type", "a\nb"),
        "message.content_type",
    ),
    ("33 attributes", attributes(**{f"k{n}": "" for n in range(33)}), "message.attributes"),
    ("an empty key", attributes(**{"": "v"}), "message.attributes"),
    ("a long key", attributes(**{"k" * 65: "v"}), "message.attributes"),
    ("a long value", attributes(k="v" * 1025), "message.attributes"),
    (
        "a time with bad nanos",
        lambda m: m.message.occurred_at.CopyFrom(Timestamp(nanos=-1)),
        "message.occurred_at",
    ),
    (
        "a time after the year 9999",
        lambda m: m.message.occurred_at.CopyFrom(Timestamp(seconds=253_402_300_800)),
        "message.occurred_at",
    ),
    ("a negative delay", policy(delay=Duration(seconds=-1)), "policy.delay"),
    ("a delay above 1 h", policy(delay=Duration(seconds=3600, nanos=1)), "policy.delay"),
    ("a delay of bad nanos", policy(delay=Duration(seconds=1, nanos=-5)), "policy.delay"),
    ("grace above the delay", policy(grace=Duration(seconds=9)), "policy.grace"),
    (
        "grace above the given delay",
        policy(delay=Duration(seconds=1), grace=Duration(seconds=2)),
        "policy.grace",
    ),
    ("max_wait below the delay", policy(max_wait=Duration(seconds=7)), "policy.max_wait"),
    ("max_wait above 24 h", policy(max_wait=Duration(seconds=86_401)), "policy.max_wait"),
    ("negative max_messages", policy(max_messages=-1), "policy.max_messages"),
    ("501 messages", policy(max_messages=501), "policy.max_messages"),
    ("negative max_bytes", policy(max_bytes=-1), "policy.max_bytes"),
    ("max_bytes above 3 MiB", policy(max_bytes=(3 << 20) + 1), "policy.max_bytes"),
]


@pytest.mark.parametrize(("change", "field"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
async def test_what_breaks_a_rule_is_refused_by_its_field(rig: Rig, change: Change, field: str):
    failed = await failure(rig.buffer.AddMessage(request(change)))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "INVALID_FIELD"
    assert failed.fields == [field]
    assert failed.text.startswith(f"{field}: ")
    assert not rig.engine.added
    assert rig.metrics.refused == {"INVALID_FIELD": 1}


async def test_the_longest_values_are_taken(rig: Rig):
    def fill(made: rpc.AddMessageRequest) -> None:
        made.instance, made.conversation = "a" * 128, "é" * 256
        made.message.id, made.message.text = "ü" * 128, "x" * 1000
        made.message.attributes.update({f"{n:064}": "v" * 1024 for n in range(32)})
        made.message.occurred_at.seconds = -62_135_596_800
        made.policy.delay.seconds = 3600

    assert (await rig.buffer.AddMessage(request(fill))).success


async def test_a_payload_above_the_limit_is_too_large(rig: Rig):
    failed = await failure(rig.buffer.AddMessage(request(text="é" * 501)))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "MESSAGE_TOO_LARGE"
    assert failed.fields == ["message"]
    assert "1002 bytes" in failed.text
    assert not rig.engine.added


async def test_a_delay_above_the_bound_of_the_instance_is_refused(rig: Rig):
    rig.bounds["bot-1"] = 10_000
    assert (await rig.buffer.AddMessage(request(policy(delay=Duration(seconds=10))))).success
    failed = await failure(rig.buffer.AddMessage(request(policy(delay=Duration(seconds=11)))))
    assert failed.fields == ["policy.delay"]


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x03\xff\xfe\xfd", b"\x0a\x7fx"])
async def test_bytes_that_are_no_request_are_refused(rig: Rig, raw: bytes):
    failed = await failure(rig.channel.unary_unary("/tidegate.v1.BufferService/AddMessage")(raw))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["request"]


@pytest.mark.parametrize(
    ("error", "code", "kinds"),
    [
        (
            StoreFull("the store is full"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            {details.QuotaFailure, details.RetryInfo},
        ),
        (
            QuotaExceeded("the buffer is full"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            {details.QuotaFailure, details.RetryInfo},
        ),
        (
            StoreUnavailable("the store is away"),
            grpc.StatusCode.UNAVAILABLE,
            {details.RetryInfo},
        ),
        (Draining(), grpc.StatusCode.UNAVAILABLE, {details.RetryInfo}),
    ],
)
class TestWhatCannotBeBuffered:
    async def test_is_an_error_by_default(
        self, rig: Rig, error: Any, code: grpc.StatusCode, kinds: set[Any]
    ):
        rig.engine.failure = error
        failed = await failure(rig.buffer.AddMessage(request()))
        assert failed.code is code
        assert failed.reason == error.reason
        assert failed.text == str(error)
        assert failed.details.keys() == kinds | {details.ErrorInfo}
        delay = failed.details[details.RetryInfo].retry_delay.ToMilliseconds()
        assert delay == error.retry_after_ms
        assert rig.metrics.refused == {error.reason: 1}

    async def test_falls_back_where_the_instance_says_so(
        self, rig: Rig, error: Any, code: grpc.StatusCode, kinds: set[Any]
    ):
        rig.engine.failure = error
        rig.fallbacks["bot-1"] = "immediate"
        response = await rig.buffer.AddMessage(request(id=""))
        assert response.fallback_to_immediate
        assert not response.success
        assert response.outcome == rpc.ADD_OUTCOME_FALLBACK
        assert pb.ErrorReason.Name(response.fallback_reason) == f"ERROR_REASON_{error.reason}"
        assert response.message_id
        assert not response.HasField("buffer")
        assert rig.metrics.fallbacks == 1
        assert not rig.metrics.refused


async def test_a_message_that_may_be_stored_never_falls_back(rig: Rig):
    rig.fallbacks["bot-1"] = "immediate"
    rig.engine.failure = StoreUnavailable("no answer", maybe_done=True)
    failed = await failure(rig.buffer.AddMessage(request()))
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert rig.metrics.fallbacks == 0


async def test_a_mistake_in_the_request_never_falls_back(rig: Rig):
    rig.fallbacks["bot-1"] = "immediate"
    failed = await failure(rig.buffer.AddMessage(request(id="\n")))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_store_that_is_silent_is_unavailable_before_the_deadline(rig: Rig):
    rig.fallbacks["bot-1"] = "immediate"
    rig.engine.close_gate()
    failed = await failure(rig.buffer.AddMessage(request(), timeout=0.5))
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_what_nobody_foresaw_is_internal_and_quotes_nothing(
    rig: Rig, capsys: pytest.CaptureFixture[str]
):
    rig.engine.failure = RuntimeError("canary")
    call = rig.buffer.AddMessage(request(), metadata=(("x-request-id", "id-77"),))
    failed = await failure(call)
    assert failed.code is grpc.StatusCode.INTERNAL
    assert failed.text == "internal error; the server's log has it under request id id-77"
    written = "".join(capsys.readouterr())
    assert "id-77" in written
    assert "RuntimeError" in written
    assert "_obey" in written
    assert "canary" not in written


@pytest.mark.parametrize(
    ("given", "echoed"), [("req-1", "req-1"), ("a b", None), ("x" * 129, None)]
)
async def test_a_proper_request_id_is_echoed(rig: Rig, given: str, echoed: str | None):
    call = rig.buffer.AddMessage(request(), metadata=(("x-request-id", given),))
    initial: Any = await call.initial_metadata()
    assert dict(initial).get("x-request-id") == echoed
    assert (await call).success
