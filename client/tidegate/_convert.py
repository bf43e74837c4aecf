"""From the wire to the models and back. Pure, and shared by both clients."""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as WireMessage
from google.protobuf.timestamp_pb2 import Timestamp

from tidegate import models
from tidegate.errors import InvalidArgument
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

_P = ParamSpec("_P")
_Request = TypeVar("_Request")
_Enum = TypeVar("_Enum", bound=IntEnum)


def _refusing(build: Callable[_P, _Request]) -> Callable[_P, _Request]:
    """Turns protobuf's complaints about a value into InvalidArgument."""

    @functools.wraps(build)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _Request:
        try:
            return build(*args, **kwargs)
        except UnicodeEncodeError:
            raise InvalidArgument(
                "a text is not valid Unicode: it holds one half of a surrogate pair",
                reason="INVALID_FIELD",
            ) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument(
                f"a value does not fit the request: {error}", reason="INVALID_FIELD"
            ) from None

    return checked


def duration(value: timedelta | None) -> Duration | None:
    """A length of time for the wire; None stays unset."""
    if value is None:
        return None
    if not isinstance(value, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(
            f"a length of time is a timedelta, such as timedelta(seconds=8), not {value}"
        )
    wire = Duration()
    wire.FromTimedelta(value)
    return wire


def timestamp(value: datetime | None) -> Timestamp | None:
    """A time for the wire; None stays unset. Raises InvalidArgument for a naive one."""
    if value is None:
        return None
    if value.tzinfo is None:
        rule = "needs a time zone, as in datetime.now(timezone.utc)"
        raise InvalidArgument(
            f"occurred_at {rule}", reason="INVALID_FIELD", fields={"message.occurred_at": rule}
        )
    wire = Timestamp()
    wire.FromDatetime(value)
    return wire


def _policy_to_wire(policy: models.WindowPolicy) -> types_pb2.WindowPolicy:
    return types_pb2.WindowPolicy(
        mode=types_pb2.WindowMode.ValueType(policy.mode),
        delay=duration(policy.delay),
        grace=duration(policy.grace),
        max_wait=duration(policy.max_wait),
        max_messages=policy.max_messages or 0,
        max_bytes=policy.max_bytes or 0,
    )


def _message_to_wire(message: models.Message) -> types_pb2.Message:
    wire = types_pb2.Message(
        id=message.id,
        content_type=message.content_type,
        attributes=message.attributes,
        occurred_at=timestamp(message.occurred_at),
    )
    if isinstance(message.payload, str):
        wire.text = message.payload
    else:
        wire.binary = message.payload
    return wire


@_refusing
def add_request(
    instance: str,
    conversation: str,
    message: models.Message,
    *,
    policy: models.WindowPolicy | None,
    flush: bool,
) -> buffer_pb2.AddMessageRequest:
    """Asks to add one message."""
    return buffer_pb2.AddMessageRequest(
        instance=instance,
        conversation=conversation,
        message=_message_to_wire(message),
        policy=_policy_to_wire(policy) if policy else None,
        flush=flush,
    )


@_refusing
def conversation_ref(instance: str, conversation: str) -> types_pb2.ConversationRef:
    """Selects one conversation."""
    return types_pb2.ConversationRef(instance=instance, conversation=conversation)


@_refusing
def subscribe_request(
    subscriber_id: str, instances: Sequence[str], *, max_in_flight: int, lease: timedelta
) -> delivery_pb2.SubscribeRequest:
    """Asks for a stream of batches."""
    return delivery_pb2.SubscribeRequest(
        subscriber_id=subscriber_id,
        instances=instances,
        max_in_flight=max_in_flight,
        lease_duration=duration(lease),
    )


@_refusing
def pull_request(
    subscriber_id: str,
    instances: Sequence[str],
    *,
    max_batches: int,
    wait: timedelta,
    lease: timedelta,
) -> delivery_pb2.PullRequest:
    """Asks for what is ready."""
    return delivery_pb2.PullRequest(
        subscriber_id=subscriber_id,
        instances=instances,
        max_batches=max_batches,
        wait=duration(wait),
        lease_duration=duration(lease),
    )


@_refusing
def nack_request(
    batch_id: str,
    lease_token: str,
    *,
    action: models.NackAction,
    retry_delay: timedelta | None,
    reason: str,
) -> delivery_pb2.NackBatchRequest:
    """Gives a batch back."""
    return delivery_pb2.NackBatchRequest(
        batch_id=batch_id,
        lease_token=lease_token,
        action=delivery_pb2.NackAction.ValueType(action),
        retry_delay=duration(retry_delay),
        reason=reason,
    )


@_refusing
def extend_request(
    batch_id: str, lease_token: str, *, lease: timedelta
) -> delivery_pb2.ExtendLeaseRequest:
    """Asks for a lease of that length from now on."""
    return delivery_pb2.ExtendLeaseRequest(
        batch_id=batch_id, lease_token=lease_token, lease_duration=duration(lease)
    )


def always(wire: Timestamp) -> datetime:
    """A time that the server always sets."""
    return wire.ToDatetime(tzinfo=UTC)


def _time(wire: WireMessage, field: str) -> datetime | None:
    return always(getattr(wire, field)) if wire.HasField(field) else None


def _length(wire: WireMessage, field: str) -> timedelta | None:
    return getattr(wire, field).ToTimedelta() if wire.HasField(field) else None


def _member(kind: type[_Enum], number: int) -> _Enum:
    """The member of that number; of one that is not known, the zero member."""
    try:
        return kind(number)
    except ValueError:
        return kind(0)


def _error_reason(number: int) -> str:
    known = number in types_pb2.ErrorReason.values() and number != 0
    name = types_pb2.ErrorReason.Name(types_pb2.ErrorReason.ValueType(number)) if known else ""
    return name.removeprefix("ERROR_REASON_")


def window_policy(wire: types_pb2.WindowPolicy) -> models.WindowPolicy:
    """The policy in force."""
    return models.WindowPolicy(
        mode=_member(models.WindowMode, wire.mode),
        delay=_length(wire, "delay"),
        grace=_length(wire, "grace"),
        max_wait=_length(wire, "max_wait"),
        max_messages=wire.max_messages or None,
        max_bytes=wire.max_bytes or None,
    )


def buffer_info(wire: types_pb2.BufferInfo) -> models.BufferInfo:
    """An open buffer."""
    return models.BufferInfo(
        state=_member(models.BufferState, wire.state),
        message_count=wire.message_count,
        payload_bytes=wire.payload_bytes,
        opened_at=always(wire.opened_at),
        last_message_at=always(wire.last_message_at),
        flush_at=always(wire.flush_at),
        policy=window_policy(wire.policy),
    )


def batch_info(wire: types_pb2.BatchInfo) -> models.BatchInfo:
    """A batch without its messages."""
    return models.BatchInfo(
        batch_id=wire.batch_id,
        instance=wire.conversation.instance,
        conversation=wire.conversation.conversation,
        state=_member(models.BatchState, wire.state),
        message_count=wire.message_count,
        payload_bytes=wire.payload_bytes,
        first_sequence=wire.first_sequence,
        last_sequence=wire.last_sequence,
        opened_at=always(wire.opened_at),
        due_at=always(wire.due_at),
        sealed_at=always(wire.sealed_at),
        flush_reason=_member(models.FlushReason, wire.flush_reason),
        attempt=wire.attempt,
        max_attempts=wire.max_attempts,
        next_attempt_at=_time(wire, "next_attempt_at"),
        settled_at=_time(wire, "settled_at"),
        expires_at=_time(wire, "expires_at"),
        last_error_reason=wire.last_error_reason,
        last_error_message=wire.last_error_message,
        rebuffer_count=wire.rebuffer_count,
    )


def received_message(wire: types_pb2.BufferedMessage) -> models.ReceivedMessage:
    """One message of a batch."""
    message = wire.message
    return models.ReceivedMessage(
        id=message.id,
        payload=message.binary if message.WhichOneof("payload") == "binary" else message.text,
        content_type=message.content_type,
        attributes=dict(message.attributes),
        occurred_at=_time(message, "occurred_at"),
        sequence=wire.sequence,
        received_at=always(wire.received_at),
        traceparent=wire.traceparent,
        tracestate=wire.tracestate,
        amended_at=_time(wire, "amended_at"),
    )


def received_messages(
    wire: Sequence[types_pb2.BufferedMessage],
) -> tuple[models.ReceivedMessage, ...]:
    """The messages of a batch, in the order of arrival."""
    return tuple(received_message(message) for message in wire)


def _attempt(wire: types_pb2.DeliveryAttempt) -> models.Attempt:
    return models.Attempt(
        number=wire.number,
        channel=_member(models.DeliveryChannel, wire.channel),
        subscriber_id=wire.subscriber_id,
        started_at=always(wire.started_at),
        ended_at=_time(wire, "ended_at"),
        error_reason=wire.error_reason,
        error_message=wire.error_message,
    )


def added(wire: buffer_pb2.AddMessageResponse) -> models.Added:
    """What became of an added message."""
    return models.Added(
        outcome=_member(models.AddOutcome, wire.outcome),
        message_id=wire.message_id,
        sequence=wire.sequence,
        buffer_created=wire.buffer_created,
        fallback_to_immediate=wire.fallback_to_immediate,
        fallback_reason=_error_reason(wire.fallback_reason),
        buffer=buffer_info(wire.buffer) if wire.HasField("buffer") else None,
    )


def flushed(wire: buffer_pb2.FlushResponse) -> models.Flushed:
    """What a flush found."""
    return models.Flushed(
        flushed=wire.flushed,
        buffer=buffer_info(wire.buffer) if wire.HasField("buffer") else None,
    )


def status(wire: buffer_pb2.GetStatusResponse) -> models.Status:
    """Where a conversation stands."""
    return models.Status(
        buffer=buffer_info(wire.buffer) if wire.HasField("buffer") else None,
        current_batch=batch_info(wire.current_batch) if wire.HasField("current_batch") else None,
        last_batch=batch_info(wire.last_batch) if wire.HasField("last_batch") else None,
    )


def batch_details(wire: admin_pb2.GetBatchResponse) -> models.BatchDetails:
    """A batch with all that is kept of it."""
    return models.BatchDetails(
        info=batch_info(wire.batch),
        messages=received_messages(wire.messages),
        attempts=tuple(_attempt(attempt) for attempt in wire.attempts),
    )


def server_info(wire: admin_pb2.GetServerInfoResponse) -> models.ServerInfo:
    """What a server says of itself."""
    return models.ServerInfo(
        version=wire.version,
        replica_id=wire.replica_id,
        started_at=always(wire.started_at),
        default_policy=window_policy(wire.default_policy),
        max_message_bytes=wire.max_message_bytes,
        max_attempts=wire.max_attempts,
        durability=wire.durability,
        store=wire.store,
        capabilities=tuple(wire.capabilities),
        draining=wire.draining,
    )


def stats(wire: admin_pb2.GetStatsResponse) -> models.Stats:
    """A server's numbers."""
    return models.Stats(
        open_buffers=wire.open_buffers,
        buffered_messages=wire.buffered_messages,
        delivering_batches=wire.delivering_batches,
        retrying_batches=wire.retrying_batches,
        dead_letters=wire.dead_letters,
        subscribers=wire.subscribers,
        oldest_due_age=wire.oldest_due_age.ToTimedelta(),
        counters=dict(wire.counters),
    )
