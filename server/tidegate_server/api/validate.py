"""The rules of the contract for what comes in. Each function gives the value to go on with.

`field` is the path in the request that an `InvalidField` names.
"""

import re
from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.access import Access
from tidegate_server.core.model import Conversation, WindowMode, WindowPolicy
from tidegate_server.errors import InvalidField, MessageTooLarge, NotFound

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
LONGEST_DELAY_MS, LONGEST_WAIT_MS = HOUR_MS, 24 * HOUR_MS
LEASE_MS = (SECOND_MS, 10 * MINUTE_MS)
MOST_MESSAGES, MOST_BYTES = 500, 3 << 20
MOST_ATTRIBUTES, MOST_INSTANCES, MOST_TOKEN_BYTES, MOST_BATCH_IDS = 32, 100, 256, 100

_CONTROL = r"\x00-\x1f\x7f-\x9f"
_is_instance = re.compile(r"[A-Za-z0-9._:@+-]{1,128}").fullmatch
_is_conversation = re.compile(f"[^{_CONTROL}]{{1,256}}").fullmatch
_is_name = re.compile(f"[^{_CONTROL}]{{1,128}}").fullmatch
_is_media_type = re.compile(f"[^{_CONTROL}]{{1,255}}").fullmatch
is_batch_id = re.compile(r"[\x21-\x7e]{1,128}").fullmatch


def instance(name: str, field: str = "instance") -> str:
    """The name of an instance."""
    if not _is_instance(name):
        raise InvalidField(field, "must be 1 to 128 characters from [A-Za-z0-9._:@+-]")
    return name


def instance_filter(name: str) -> str | None:
    """The instance that a list is limited to; None for all."""
    return instance(name) if name else None


def instances(names: Iterable[str]) -> frozenset[str]:
    """The instances that a subscriber wants; empty for all."""
    given = list(names)
    if len(given) > MOST_INSTANCES:
        raise InvalidField("instances", f"must be at most {MOST_INSTANCES}")
    return frozenset(instance(name, f"instances[{n}]") for n, name in enumerate(given))


def conversation(instance_name: str, name: str, path: str = "") -> Conversation:
    """A conversation whose two fields stand under `path`, such as "conversation."."""
    if not _is_conversation(name):
        rule = "must be 1 to 256 characters, none of them a control character"
        raise InvalidField(f"{path}conversation", rule)
    return Conversation(instance(instance_name, f"{path}instance"), name)


def conversation_ref(request: Message, ref: pb.ConversationRef, access: Access) -> Conversation:
    """The required field `conversation` of a request, which `access` must cover."""
    if not request.HasField("conversation"):
        raise InvalidField("conversation", "is required")
    found = conversation(ref.instance, ref.conversation, "conversation.")
    access.must_cover(found.instance)
    return found


def subscriber_id(name: str) -> str:
    """The name that a subscriber gives itself."""
    if not _is_name(name):
        rule = "must be 1 to 128 characters, none of them a control character"
        raise InvalidField("subscriber_id", rule)
    return name


def batch_id(name: str) -> str:
    """A batch id. One of a form that no batch has is `NotFound`, not a mistake in the request."""
    if not name:
        raise InvalidField("batch_id", "is required")
    if not is_batch_id(name):
        raise NotFound("batch", "of that form")
    return name


def lease_token(token: str) -> str:
    """A lease token, which is opaque."""
    if not token:
        raise InvalidField("lease_token", "is required")
    if len(token.encode()) > MOST_TOKEN_BYTES:
        raise InvalidField("lease_token", f"must be at most {MOST_TOKEN_BYTES} bytes")
    return token


def number(value: int, field: str, *, default: int, most: int) -> int:
    """A number from 1 to `most`; 0 means the default."""
    if not 0 <= value <= most:
        raise InvalidField(field, f"must be from 1 to {most}, or 0 for the default")
    return value or default


def page_size(value: int) -> int:
    """The size of a page: 50 by default, and what is above 500 is taken as 500."""
    if value < 0:
        raise InvalidField("page_size", "must not be negative")
    return min(value, 500) or 50


def text(value: str, field: str, *, most: int) -> str:
    """A text of at most `most` characters."""
    if len(value) > most:
        raise InvalidField(field, f"must be at most {most} characters")
    return value


def duration_ms(value: Duration, field: str, *, least_ms: int, most_ms: int) -> int:
    """A duration in milliseconds, rounded up, so that only zero becomes 0."""
    nanos = value.seconds * 1_000_000_000 + value.nanos
    proper = 0 <= value.nanos < 1_000_000_000
    if not proper or not least_ms * 1_000_000 <= nanos <= most_ms * 1_000_000:
        raise InvalidField(field, f"must be from {least_ms / 1000:g} s to {most_ms / 1000:g} s")
    return -(-nanos // 1_000_000)


def lease_ms(request: Message, value: Duration, default: int | None) -> int | None:
    """The field `lease_duration` of a request in milliseconds, or the default."""
    if not request.HasField("lease_duration"):
        return default
    return duration_ms(value, "lease_duration", least_ms=LEASE_MS[0], most_ms=LEASE_MS[1])


def policy(wire: pb.WindowPolicy, default: WindowPolicy, max_delay_ms: int | None) -> WindowPolicy:
    """The policy of a request, which overrides `default` field by field.

    A default grace or max_wait that does not fit the given delay is moved to it; a given one that
    does not fit is refused, like a delay above `max_delay_ms`, the bound of the instance.
    """
    most = LONGEST_DELAY_MS if max_delay_ms is None else max_delay_ms
    delay = _policy_ms(wire, "delay", wire.delay, 0, most)
    delay = default.delay_ms if delay is None else delay
    grace = _policy_ms(wire, "grace", wire.grace, 0, delay)
    wait = _policy_ms(wire, "max_wait", wire.max_wait, delay, LONGEST_WAIT_MS)
    messages, size = wire.max_messages, wire.max_bytes
    return WindowPolicy(
        mode=WindowMode(wire.mode) if wire.mode in _MODES else default.mode,
        delay_ms=delay,
        grace_ms=min(default.grace_ms, delay) if grace is None else grace,
        max_wait_ms=max(default.max_wait_ms, delay) if wait is None else wait,
        max_messages=number(
            messages, "policy.max_messages", default=default.max_messages, most=MOST_MESSAGES
        ),
        max_bytes=number(size, "policy.max_bytes", default=default.max_bytes, most=MOST_BYTES),
    )


_MODES = frozenset(WindowMode)


def _policy_ms(
    wire: Message, name: str, value: Duration, least_ms: int, most_ms: int
) -> int | None:
    if not wire.HasField(name):
        return None
    return duration_ms(value, f"policy.{name}", least_ms=least_ms, most_ms=most_ms)


def payload_bytes(message: pb.Message, *, most: int) -> int:
    """Check a message but for its id, and give the size of its payload."""
    kind = message.WhichOneof("payload")
    if kind is None:
        raise InvalidField("message.payload", "must be set: either text or binary")
    size = len(message.text.encode()) if kind == "text" else len(message.binary)
    if size > most:
        raise MessageTooLarge(f"the payload has {size} bytes; this server takes at most {most}")
    if message.content_type and not _is_media_type(message.content_type):
        rule = "must be at most 255 characters, none of them a control character"
        raise InvalidField("message.content_type", rule)
    if message.attributes:
        _check_attributes(message)
    if message.HasField("occurred_at"):
        _check_timestamp(message.occurred_at, "message.occurred_at")
    return size


def message_id(name: str, field: str = "message.id") -> str:
    """The producer's id of a message; empty if it gave none."""
    if name and not _is_name(name):
        rule = "must be at most 128 characters, none of them a control character"
        raise InvalidField(field, rule)
    return name


def required_message_id(name: str, field: str) -> str:
    """The id of a message that is meant."""
    if not name:
        raise InvalidField(field, "is required")
    return message_id(name, field)


def batch_ids(names: Sequence[str]) -> list[str]:
    """The ids of a bulk call. Those of a form that no batch has are let through: they are none."""
    if not 1 <= len(names) <= MOST_BATCH_IDS:
        raise InvalidField("batch_ids", f"must be 1 to {MOST_BATCH_IDS}")
    return list(names)


def _check_attributes(message: pb.Message) -> None:
    attributes = message.attributes
    if len(attributes) > MOST_ATTRIBUTES:
        raise InvalidField("message.attributes", f"must be at most {MOST_ATTRIBUTES}")
    if not all(1 <= len(key) <= 64 and len(attributes[key]) <= 1024 for key in attributes):
        rule = "must have keys of 1 to 64 and values of at most 1024 characters"
        raise InvalidField("message.attributes", rule)


def _check_timestamp(value: Timestamp, field: str) -> None:
    in_range = -62_135_596_800 <= value.seconds <= 253_402_300_799
    if not in_range or not 0 <= value.nanos < 1_000_000_000:
        raise InvalidField(field, "must be a time of the years 1 to 9999")
