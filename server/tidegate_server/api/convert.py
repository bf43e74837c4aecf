"""What the store keeps and what goes out: core values to the wire."""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from tidegate.v1 import admin_service_pb2 as admin
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.delivery import FINAL
from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    BufferInfo,
    Conversation,
    DeliveryAttempt,
    StoredMessage,
    WindowPolicy,
)
from tidegate_server.errors import TidegateError
from tidegate_server.store.signals import LiveEvent

_INT32_MAX = (1 << 31) - 1
_DEFAULT_TYPES = {"text": "text/plain", "binary": "application/octet-stream"}
_is_traceparent = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


class CorruptBody(Exception):
    """A stored message is not what this server wrote. The text says which, and nothing of it."""

    def __init__(self, sequence: int):
        super().__init__(f"the stored message with sequence {sequence} cannot be read")


def reason(error: TidegateError) -> pb.ErrorReason.ValueType:
    """The reason of an error."""
    return pb.ErrorReason.Value(f"ERROR_REASON_{error.reason}")


def timestamp(at_ms: int) -> Timestamp:
    """Milliseconds since 1970 as a timestamp."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)


def duration(span_ms: int) -> Duration:
    """Milliseconds as a duration."""
    return Duration(seconds=span_ms // 1000, nanos=span_ms % 1000 * 1_000_000)


@lru_cache(maxsize=1024)
def policy(core: WindowPolicy) -> pb.WindowPolicy:
    """A policy. Shared by all callers: it must not be changed."""
    return pb.WindowPolicy(
        mode=pb.WindowMode.ValueType(core.mode),
        delay=duration(core.delay_ms),
        grace=duration(core.grace_ms),
        max_wait=duration(core.max_wait_ms),
        max_messages=core.max_messages,
        max_bytes=core.max_bytes,
    )


def buffer(core: BufferInfo) -> pb.BufferInfo:
    """An open buffer."""
    return pb.BufferInfo(
        state=pb.BufferState.ValueType(core.state),
        message_count=min(core.message_count, _INT32_MAX),
        payload_bytes=min(core.payload_bytes, _INT32_MAX),
        opened_at=timestamp(core.opened_at_ms),
        last_message_at=timestamp(core.last_message_at_ms),
        flush_at=timestamp(core.flush_at_ms),
        policy=policy(core.policy),
    )


def optional_buffer(core: BufferInfo | None) -> pb.BufferInfo | None:
    """An open buffer, if there is one."""
    return None if core is None else buffer(core)


def conversation(core: Conversation) -> pb.ConversationRef:
    """A conversation."""
    return pb.ConversationRef(instance=core.instance, conversation=core.name)


def batch_info(core: BatchInfo, max_attempts: int) -> pb.BatchInfo:
    """A batch without its messages; `max_attempts` is the server's."""
    info = pb.BatchInfo(
        batch_id=core.batch_id,
        conversation=conversation(core.conversation),
        state=pb.BatchState.ValueType(core.state),
        message_count=core.message_count,
        payload_bytes=core.payload_bytes,
        first_sequence=core.first_sequence,
        last_sequence=core.last_sequence,
        opened_at=timestamp(core.opened_at_ms),
        due_at=timestamp(core.due_at_ms),
        sealed_at=timestamp(core.sealed_at_ms),
        flush_reason=pb.FlushReason.ValueType(core.flush_reason),
        attempt=core.attempt,
        max_attempts=max_attempts,
        last_error_reason=core.last_error_reason,
        last_error_message=core.last_error_message,
        rebuffer_count=core.rebuffer_count,
    )
    if core.next_attempt_at_ms is not None:
        info.next_attempt_at.CopyFrom(timestamp(core.next_attempt_at_ms))
    if core.settled_at_ms is not None:
        info.settled_at.CopyFrom(timestamp(core.settled_at_ms))
    if core.expires_at_ms is not None:
        info.expires_at.CopyFrom(timestamp(core.expires_at_ms))
    return info


def event(core: LiveEvent, max_attempts: int) -> admin.WatchEventsResponse:
    """An event of the live tail. Of a batch that is known in part, the rest is left unset."""
    wire = admin.WatchEventsResponse(
        time=timestamp(core.at_ms),
        kind=admin.EventKind.ValueType(core.kind),
        conversation=conversation(core.conversation),
        message_id=core.message_id,
        buffer=optional_buffer(core.buffer),
        dropped=min(core.dropped, _INT32_MAX),
    )
    if core.batch_id:
        wire.batch.CopyFrom(_batch_after(core, max_attempts))
    return wire


def _batch_after(core: LiveEvent, max_attempts: int) -> pb.BatchInfo:
    if core.batch:
        info = batch_info(core.batch, max_attempts)
    else:
        where = conversation(core.conversation)
        info = pb.BatchInfo(batch_id=core.batch_id, conversation=where, max_attempts=max_attempts)
    if core.state is not None:
        info.state = pb.BatchState.ValueType(core.state)
        if core.state in FINAL:
            info.settled_at.CopyFrom(timestamp(core.at_ms))
    if core.next_attempt_at_ms is not None:
        info.next_attempt_at.CopyFrom(timestamp(core.next_attempt_at_ms))
    return info


def attempt(core: DeliveryAttempt) -> pb.DeliveryAttempt:
    """One attempt to deliver a batch."""
    wire = pb.DeliveryAttempt(
        number=core.number,
        channel=pb.DeliveryChannel.ValueType(core.channel),
        subscriber_id=core.subscriber_id,
        started_at=timestamp(core.started_at_ms),
        error_reason=core.error_reason,
        error_message=core.error_message,
    )
    if core.ended_at_ms is not None:
        wire.ended_at.CopyFrom(timestamp(core.ended_at_ms))
    return wire


def body(message: pb.Message, metadata: Mapping[str, str | bytes]) -> bytes:
    """What the store keeps of a message: a BufferedMessage without its place and its time.

    Fills in the message's content type. Fields that the contract does not have are dropped: no
    limit counts them.
    """
    if not message.content_type:
        message.content_type = _DEFAULT_TYPES[message.WhichOneof("payload") or "binary"]
    message.DiscardUnknownFields()
    kept = pb.BufferedMessage(message=message)
    parent = metadata.get("traceparent")
    if isinstance(parent, str) and _is_traceparent(parent):
        kept.traceparent = parent
        state = metadata.get("tracestate")
        if isinstance(state, str) and len(state) <= 512:
            kept.tracestate = state
    return kept.SerializeToString()


def fill_message(wire: pb.BufferedMessage, stored: StoredMessage) -> None:
    """Fill in a message as it is handed out.

    Raises:
        CorruptBody: The stored bytes are no message. Place and time are filled in all the same.
    """
    try:
        wire.MergeFromString(stored.body)
        readable = wire.HasField("message")
    except DecodeError:
        wire.Clear()
        readable = False
    wire.sequence = stored.sequence
    wire.received_at.CopyFrom(timestamp(stored.received_at_ms))
    if stored.amended_at_ms:
        wire.amended_at.CopyFrom(timestamp(stored.amended_at_ms))
    if not readable:
        raise CorruptBody(stored.sequence)


def fill_batch(wire: pb.Batch, core: Batch, max_attempts: int) -> None:
    """Fill in a batch as it is handed out.

    Raises:
        CorruptBody: One of its messages cannot be read.
    """
    wire.info.CopyFrom(batch_info(core.info, max_attempts))
    wire.lease_token = core.token
    wire.lease_expires_at.CopyFrom(timestamp(core.lease_expires_at_ms))
    for stored in core.messages:
        fill_message(wire.messages.add(), stored)


def try_fill_message(wire: pb.BufferedMessage, stored: StoredMessage) -> None:
    """Fill in a message for people to look at; one that cannot be read has place and time only."""
    with suppress(CorruptBody):
        fill_message(wire, stored)
