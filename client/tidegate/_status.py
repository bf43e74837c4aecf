"""Reads the google.rpc.Status of a failed call, without googleapis-common-protos.

The few messages are declared here, wire-compatible and in a descriptor pool of their own, so that
they cannot clash with the real ones where those are installed as well.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

TRAILER = "grpc-status-details-bin"
DOMAIN = "tidegate"

# Message -> fields in the order of their numbers, which are 1, 2, 3; "*" marks a repeated one.
_SCHEMA = {
    "Any": {"type_url": "string", "value": "bytes"},
    "Duration": {"seconds": "int64", "nanos": "int32"},
    "FieldViolation": {"field": "string", "description": "string"},
    "Status": {"code": "int32", "message": "string", "details": "*Any"},
    "ErrorInfo": {"reason": "string", "domain": "string"},
    "RetryInfo": {"retry_delay": "Duration"},
    "BadRequest": {"field_violations": "*FieldViolation"},
}


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a server says about a failure beside code and message."""

    reason: str = ""
    retry_after: timedelta | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, package: str
) -> None:
    wire = descriptor_pb2.FieldDescriptorProto
    label = wire.LABEL_REPEATED if kind.startswith("*") else wire.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in _SCHEMA:
        message.field.add(
            name=name, number=number, label=label, type_name=f".{package}.{kind}"
        ).type = wire.TYPE_MESSAGE
    else:
        message.field.add(name=name, number=number, label=label).type = wire.Type.Value(
            f"TYPE_{kind.upper()}"
        )


def _message_classes() -> dict[str, Any]:
    package = "tidegate.status"
    file = descriptor_pb2.FileDescriptorProto(
        name="tidegate/status.proto", package=package, syntax="proto3"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            _add_field(message, field_name, number, kind, package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _SCHEMA
    }


_CLASSES = _message_classes()


def read(trailer: bytes | None) -> ErrorDetails:
    """What the trailer's bytes say. What cannot be read counts as not said."""
    if not trailer:
        return ErrorDetails()
    try:
        status = _CLASSES["Status"].FromString(trailer)
        return _read_details(status.details)
    except DecodeError:
        return ErrorDetails()


def _read_details(details: Any) -> ErrorDetails:
    reason, retry_after = "", None
    fields: dict[str, str] = {}
    for packed in details:
        match packed.type_url.rpartition("/")[2]:
            case "google.rpc.ErrorInfo":
                info = _CLASSES["ErrorInfo"].FromString(packed.value)
                reason = info.reason if info.domain == DOMAIN else reason
            case "google.rpc.RetryInfo":
                delay = _CLASSES["RetryInfo"].FromString(packed.value).retry_delay
                retry_after = timedelta(seconds=delay.seconds, microseconds=delay.nanos // 1000)
            case "google.rpc.BadRequest":
                for broken in _CLASSES["BadRequest"].FromString(packed.value).field_violations:
                    fields.setdefault(broken.field, broken.description)
            case _:
                pass
    return ErrorDetails(reason, retry_after, fields)
