"""From arguments and models to the wire. Pure, and shared by both clients."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tidegate import models
from tidegate.errors import InvalidArgument
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

_P = ParamSpec("_P")
_Request = TypeVar("_Request")


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


def _message_to_wire(
    message_id: str,
    payload: str | bytes,
    *,
    content_type: str | None,
    attributes: Mapping[str, str] | None,
    occurred_at: datetime | None,
) -> types_pb2.Message:
    wire = types_pb2.Message(
        id=message_id,
        content_type=content_type or "",
        attributes=attributes,
        occurred_at=timestamp(occurred_at),
    )
    if isinstance(payload, str):
        wire.text = payload
    else:
        wire.binary = payload
    return wire


@_refusing
def conversation_ref(instance: str, conversation: str) -> types_pb2.ConversationRef:
    """Selects one conversation."""
    return types_pb2.ConversationRef(instance=instance, conversation=conversation)


@_refusing
def add_request(
    instance: str,
    conversation: str,
    payload: str | bytes,
    *,
    message_id: str | None = None,
    content_type: str | None = None,
    attributes: Mapping[str, str] | None = None,
    occurred_at: datetime | None = None,
    policy: models.WindowPolicy | None = None,
    flush: bool = False,
) -> buffer_pb2.AddMessageRequest:
    """Asks to add one message; one without an id gets one here, so that a repeat is harmless."""
    message = _message_to_wire(
        message_id or os.urandom(16).hex(),
        payload,
        content_type=content_type,
        attributes=attributes,
        occurred_at=occurred_at,
    )
    return buffer_pb2.AddMessageRequest(
        instance=instance,
        conversation=conversation,
        message=message,
        policy=_policy_to_wire(policy) if policy else None,
        flush=flush,
    )


def new_message(new: models.NewMessage) -> buffer_pb2.AddMessageRequest:
    """Asks to add one of many."""
    return add_request(
        new.instance,
        new.conversation,
        new.payload,
        message_id=new.message_id,
        content_type=new.content_type,
        attributes=new.attributes,
        occurred_at=new.occurred_at,
        policy=new.policy,
        flush=new.flush,
    )


@_refusing
def amend_request(
    instance: str,
    conversation: str,
    message_id: str,
    payload: str | bytes,
    *,
    content_type: str | None,
    attributes: Mapping[str, str] | None,
    occurred_at: datetime | None,
) -> buffer_pb2.AmendMessageRequest:
    """Asks to replace a message."""
    message = _message_to_wire(
        message_id,
        payload,
        content_type=content_type,
        attributes=attributes,
        occurred_at=occurred_at,
    )
    return buffer_pb2.AmendMessageRequest(
        conversation=conversation_ref(instance, conversation), message=message
    )


@_refusing
def remove_request(
    instance: str, conversation: str, message_id: str
) -> buffer_pb2.RemoveMessageRequest:
    """Asks to take a message out."""
    return buffer_pb2.RemoveMessageRequest(
        conversation=conversation_ref(instance, conversation), message_id=message_id
    )


@_refusing
def hold_request(
    instance: str, conversation: str, hold_for: timedelta
) -> buffer_pb2.HoldWindowRequest:
    """Asks to keep a window open."""
    return buffer_pb2.HoldWindowRequest(
        conversation=conversation_ref(instance, conversation), hold_for=duration(hold_for)
    )


@_refusing
def track_request(
    instance: str, conversation: str, message_id: str
) -> admin_pb2.TrackMessageRequest:
    """Asks what became of a message."""
    return admin_pb2.TrackMessageRequest(
        conversation=conversation_ref(instance, conversation), message_id=message_id
    )


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
