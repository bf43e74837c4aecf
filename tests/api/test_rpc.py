import asyncio
from contextlib import suppress
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from tests.api.conftest import Rig
from tests.api.house import House, entry, until
from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2
from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate_server.api.rpc import Call, Context
from tidegate_server.errors import StoreUnavailable

SERVICES = [
    buffer_service_pb2.DESCRIPTOR.services_by_name["BufferService"],
    delivery_service_pb2.DESCRIPTOR.services_by_name["DeliveryService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
]

ANSWERS = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize(
    ("service", "method"),
    [(service.full_name, method.name) for service in SERVICES for method in service.methods],
)
async def test_every_call_of_the_contract_is_answered(house: House, service: str, method: str):
    call: Any = house.channel.stream_stream(f"/{service}/{method}")(iter([b""]))
    if method == "WatchEvents":
        await until(lambda: house.engine.subscribers.guests == 1)
        await house.engine.drain(0)
    with suppress(grpc.aio.AioRpcError):
        await call.read()
    assert await call.code() in ANSWERS


def pairs(metadata: Any) -> dict[str, str]:
    return dict(metadata or ())


async def test_a_request_id_comes_back_before_a_success(rig: Rig):
    call = rig.buffer.AddMessage(entry("hello"), metadata=(("x-request-id", "r1"),))
    await call
    assert pairs(await call.initial_metadata())["x-request-id"] == "r1"
    assert "x-request-id" not in pairs(await call.trailing_metadata())


async def test_a_request_id_comes_back_after_a_failure(rig: Rig):
    rig.engine.failure = StoreUnavailable("the store cannot be reached")
    call = rig.buffer.AddMessage(entry("hello"), metadata=(("x-request-id", "r1"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert "x-request-id" not in pairs(caught.value.initial_metadata())
    assert pairs(caught.value.trailing_metadata())["x-request-id"] == "r1"


async def test_a_client_repeats_by_itself_what_failed_with_a_request_id(house: House, folder: Any):
    """Metadata that went ahead of the failure would have told gRPC not to."""
    config = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4,'
        '"initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,'
        '"retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    )
    add, failures = house.store.add, [StoreUnavailable("the store cannot be reached")] * 2

    async def flaky(messages: Any) -> Any:
        if failures:
            raise failures.pop()
        return await add(messages)

    house.store.add = flaky
    options = (("grpc.service_config", config),)
    async with grpc.aio.insecure_channel(f"unix:{folder}/house", options=options) as channel:
        method: Any = channel.unary_unary(
            "/tidegate.v1.BufferService/AddMessage",
            buffer.AddMessageRequest.SerializeToString,
            buffer.AddMessageResponse.FromString,
        )
        assert (await method(entry("hello"), metadata=(("x-request-id", "r1"),))).success


class Gone:
    """The context of a call whose client has gone."""

    def invocation_metadata(self) -> None:
        return None

    async def abort(self, *_: object) -> None:
        raise grpc.aio.InternalError("the batch could not be executed")


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("the store cannot be reached"),
        RuntimeError("a bug"),
        grpc.aio.InternalError("a write failed"),
    ],
)
async def test_a_call_whose_client_has_gone_ends_in_silence(error: Exception):
    call = Call(cast(Context, Gone()), "/method")
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await call.fail(error)
    assert [log["error"] for log in logs] == (["RuntimeError"] if "bug" in str(error) else [])
