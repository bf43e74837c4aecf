"""What people and platforms use beside a client library: health, reflection, `buf curl`."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.servers import Server

SERVICES = (
    "tidegate.v1.AdminService",
    "tidegate.v1.BufferService",
    "tidegate.v1.DeliveryService",
)
BUF = Path(sys.executable).with_name("buf")


async def test_the_health_of_every_service_can_be_asked_and_watched(tmp_path: Path):
    async with (
        Server(tmp_path) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="else"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

        watch = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.terminate())
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await anext(watch, None) is None
        assert await stopping == 0


async def test_reflection_lists_the_services(shared_server: Server):
    async with grpc.aio.insecure_channel(shared_server.target) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            listed = {service.name for service in answer.list_services_response.service}
            assert {*SERVICES, "grpc.health.v1.Health"} <= listed


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed: pip install buf-bin")
async def test_buf_curl_can_add_a_message_and_pull_its_batch(shared_server: Server):
    async def curl(method: str, request: dict[str, Any]) -> dict[str, Any]:
        url = f"http://{shared_server.target}/tidegate.v1.{method}"
        options = ("--protocol", "grpc", "--http2-prior-knowledge", "--emit-defaults")
        done = await asyncio.to_thread(
            subprocess.run,
            [BUF, "curl", *options, "-d", json.dumps(request), url],
            capture_output=True,
            text=True,
            env={"HOME": str(shared_server.dir)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    message = {"id": "m1", "text": "hello"}
    where = {"instance": "bot", "conversation": "anna"}
    added = await curl("BufferService/AddMessage", {**where, "message": message, "flush": True})
    assert (added["success"], added["outcome"]) == (True, "ADD_OUTCOME_BUFFERED")
    pulled = await curl("DeliveryService/Pull", {"subscriberId": "people", "instances": ["bot"]})
    (batch,) = pulled["batches"]
    assert [entry["message"]["text"] for entry in batch["messages"]] == ["hello"]
    lease = {"batchId": batch["info"]["batchId"], "leaseToken": batch["leaseToken"]}
    settled = await curl("DeliveryService/AckBatch", lease)
    assert settled["state"] == "BATCH_STATE_COMPLETED"
