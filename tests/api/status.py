"""Reads what a failed call carries."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

KINDS = (
    details.ErrorInfo,
    details.BadRequest,
    details.QuotaFailure,
    details.RetryInfo,
    details.ResourceInfo,
    details.PreconditionFailure,
)


@dataclass
class Failure:
    """A status and its details by their type."""

    code: grpc.StatusCode
    text: str
    details: dict[type[Message], Any]

    @property
    def reason(self) -> str:
        info = self.details[details.ErrorInfo]
        assert info.domain == "tidegate"
        return info.reason

    @property
    def fields(self) -> list[str]:
        return [found.field for found in self.details[details.BadRequest].field_violations]


async def failure(call: Awaitable[object]) -> Failure:
    """How a call failed; it must."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return Failure(error.code(), error.details() or "", _details(error))


def _details(error: grpc.aio.AioRpcError) -> dict[type[Message], Any]:
    pairs: Any = error.trailing_metadata()
    raw = dict(pairs).get("grpc-status-details-bin")
    if raw is None:
        return {}
    status = Status.FromString(raw)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return dict(_unpack(packed) for packed in status.details)


def _unpack(packed: Any) -> tuple[type[Message], Any]:
    (kind,) = (kind for kind in KINDS if packed.Is(kind.DESCRIPTOR))
    found = kind()
    packed.Unpack(found)
    return kind, found
