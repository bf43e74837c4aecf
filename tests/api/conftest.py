import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

from tests.api.fake import FakeEngine
from tests.api.house import FACTS, House
from tidegate.v1.admin_service_pb2_grpc import AdminServiceStub
from tidegate.v1.buffer_service_pb2_grpc import BufferServiceStub
from tidegate.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from tidegate_server.api.server import ApiServer, ApiSettings
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.metrics import Metrics


@dataclass
class Rig:
    """A server on a unix socket, its engine, and the stubs of a client."""

    engine: FakeEngine
    server: ApiServer
    metrics: Metrics
    channel: grpc.aio.Channel
    fallbacks: dict[str, str] = field(default_factory=dict[str, str])
    bounds: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        # The generated stubs are typed for both kinds of channel at once.
        self.buffer: Any = BufferServiceStub(self.channel)
        self.delivery: Any = DeliveryServiceStub(self.channel)
        self.admin: Any = AdminServiceStub(self.channel)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="tg") as name:
        yield Path(name)


@pytest.fixture
async def rig(folder: Path) -> AsyncIterator[Rig]:
    engine, metrics, path = FakeEngine(), Metrics(), f"unix:{folder}/api"
    fallbacks: dict[str, str] = {}
    bounds: dict[str, int] = {}
    server = ApiServer(
        cast(Engine, engine),
        listen=[path],
        facts=FACTS,
        metrics=metrics,
        policy=lambda instance: WindowPolicy(),
        fallback=lambda instance: fallbacks.get(instance, "error"),
        max_delay_ms=bounds.get,
        settings=ApiSettings(lease_ms=30_000, heartbeat_ms=200),
    )
    await server.start()
    async with grpc.aio.insecure_channel(path) as channel:
        yield Rig(engine, server, metrics, channel, fallbacks, bounds)
    await server.stop(0)


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    house = House(f"unix:{folder}/house")
    await house.start()
    yield house
    await house.stop()


@pytest.fixture
async def houses(folder: Path) -> AsyncIterator[tuple[House, House]]:
    """Two servers that share a store, with windows of a minute."""
    one = House(f"unix:{folder}/one", delay_ms=60_000)
    other = House(f"unix:{folder}/other", one.store.replica(), delay_ms=60_000)
    for house in (one, other):
        await house.start()
    yield one, other
    for house in (one, other):
        await house.stop()
