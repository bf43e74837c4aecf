import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from tests.api.conftest import Rig
from tests.api.fake import FakeEngine
from tests.api.house import FACTS
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2
from tidegate.v1.admin_service_pb2_grpc import AdminServiceStub
from tidegate_server.api.server import ApiServer
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import StartupError
from tidegate_server.metrics import Metrics

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3
SERVICES = [
    buffer_service_pb2.DESCRIPTOR.services_by_name["BufferService"],
    delivery_service_pb2.DESCRIPTOR.services_by_name["DeliveryService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
]
NAMES = [service.full_name for service in SERVICES]
Serve = Callable[..., ApiServer]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    made: list[ApiServer] = []

    def make(*listen: str) -> ApiServer:
        server = ApiServer(
            cast(Engine, FakeEngine()),
            listen=listen,
            facts=FACTS,
            metrics=Metrics(),
            policy=lambda instance: WindowPolicy(),
            fallback=lambda instance: "error",
            max_delay_ms=lambda instance: None,
        )
        made.append(server)
        return server

    yield make
    for server in made:
        await server.stop(0)


async def answers(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdminServiceStub(channel)
        info = await stub.GetServerInfo(admin_service_pb2.GetServerInfoRequest(), timeout=5)
    return info.version == FACTS.version


async def test_every_address_is_served_and_told_with_its_port(serve: Serve, folder: Path):
    server = serve("127.0.0.1:0", f"unix:{folder}/a", f"unix://{folder}/b")
    await server.start()
    tcp, *unix = server.addresses
    assert tcp.startswith("127.0.0.1:")
    assert not tcp.endswith(":0")
    assert unix == [f"unix:{folder}/a", f"unix://{folder}/b"]
    assert [await answers(address) for address in server.addresses] == [True] * 3


async def test_a_unix_socket_is_for_its_owner_and_goes_with_the_server(serve: Serve, folder: Path):
    server = serve(f"unix:{folder}/a")
    await server.start()
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    await server.stop(0)
    assert not (folder / "a").exists()
    again = serve(f"unix:{folder}/a")
    await again.start()
    assert await answers(f"unix:{folder}/a")


async def test_a_taken_port_is_refused_by_name(serve: Serve):
    first = serve("127.0.0.1:0")
    await first.start()
    (address,) = first.addresses
    with pytest.raises(StartupError, match=rf"TIDEGATE_LISTEN: cannot listen on {address}"):
        await serve(address).start()
    assert await answers(address)


async def test_a_taken_path_is_refused_and_stays_with_its_server(serve: Serve, folder: Path):
    address = f"unix:{folder}/a"
    await serve(address).start()
    second = serve(address)
    with pytest.raises(StartupError, match="TIDEGATE_LISTEN: cannot listen on unix:"):
        await second.start()
    await second.stop(0)
    assert await answers(address)


async def test_a_failed_start_leaves_its_other_addresses_free(serve: Serve, folder: Path):
    await serve(f"unix:{folder}/a").start()
    with pytest.raises(StartupError):
        await serve(f"unix:{folder}/b", f"unix:{folder}/a").start()
    third = serve(f"unix:{folder}/b")
    await third.start()
    assert await answers(f"unix:{folder}/b")


async def test_the_socket_of_a_dead_server_is_cleared_away(serve: Serve, folder: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/a")
    await serve(f"unix:{folder}/a").start()
    assert await answers(f"unix:{folder}/a")


async def test_the_socket_of_another_program_is_left_alone(serve: Serve, folder: Path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/a")
        other.listen()
        with pytest.raises(StartupError, match="another program does"):
            await serve(f"unix:{folder}/a").start()
    assert (folder / "a").is_socket()


async def test_a_file_that_is_no_socket_is_left_alone(serve: Serve, folder: Path):
    (folder / "a").write_text("precious")
    with pytest.raises(StartupError, match="is no socket"):
        await serve(f"unix:{folder}/a").start()
    assert (folder / "a").read_text() == "precious"


async def test_a_folder_that_does_not_exist_is_refused(serve: Serve, folder: Path):
    with pytest.raises(StartupError, match="choose a path in a folder that exists"):
        await serve(f"unix:{folder}/none/a").start()


def stub_of(rig: Rig) -> Any:
    return health_pb2_grpc.HealthStub(rig.channel)


@pytest.mark.parametrize("name", ["", *NAMES])
async def test_health_says_no_until_told_otherwise(rig: Rig, name: str):
    request = health_pb2.HealthCheckRequest(service=name)
    assert (await stub_of(rig).Check(request)).status == NOT_SERVING
    rig.server.set_serving(True)
    assert (await stub_of(rig).Check(request)).status == SERVING
    rig.server.set_serving(False)
    assert (await stub_of(rig).Check(request)).status == NOT_SERVING


async def test_health_of_an_unknown_service(rig: Rig):
    request = health_pb2.HealthCheckRequest(service="nobody")
    failed = await failure(stub_of(rig).Check(request))
    assert failed.code is grpc.StatusCode.NOT_FOUND
    call = stub_of(rig).Watch(request)
    assert (await call.read()).status == UNKNOWN
    call.cancel()


async def test_a_watch_follows_and_ends_with_the_server(rig: Rig):
    call = stub_of(rig).Watch(health_pb2.HealthCheckRequest(service=NAMES[0]))
    assert (await call.read()).status == NOT_SERVING
    rig.server.set_serving(True)
    assert (await call.read()).status == SERVING
    await asyncio.wait_for(rig.server.stop(grace=60), 10)
    assert (await call.read()).status == NOT_SERVING
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_the_services(rig: Rig, version: str):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    call: Any = rig.channel.stream_stream(
        method,
        reflection.ServerReflectionRequest.SerializeToString,
        reflection.ServerReflectionResponse.FromString,
    )(
        iter(
            [
                reflection.ServerReflectionRequest(list_services=""),
                reflection.ServerReflectionRequest(file_containing_symbol=NAMES[0]),
            ]
        )
    )
    listed = [service.name for service in (await call.read()).list_services_response.service]
    assert set(NAMES) <= set(listed)
    assert {f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")} <= set(listed)
    assert "grpc.health.v1.Health" in listed
    files = (await call.read()).file_descriptor_response.file_descriptor_proto
    assert any(b"tidegate/v1/buffer_service.proto" in found for found in files)
    assert await call.read() is grpc.aio.EOF


async def test_an_idle_reflection_stream_does_not_hold_a_stop_up(rig: Rig):
    call: Any = rig.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection.ServerReflectionRequest.SerializeToString,
    )()
    await call.write(reflection.ServerReflectionRequest(list_services=""))
    assert await call.read()
    await asyncio.wait_for(rig.server.stop(grace=60), 10)
    assert await call.code() is grpc.StatusCode.OK
