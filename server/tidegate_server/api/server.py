"""The gRPC server: every service of the contract, health and reflection, on its addresses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2
from tidegate_server.api.admin import AdminService, ServerFacts
from tidegate_server.api.buffer import BufferService
from tidegate_server.api.delivery import DeliveryService
from tidegate_server.api.health import Health
from tidegate_server.api.intake import Intake, IntakeRules
from tidegate_server.api.listen import Listeners
from tidegate_server.api.rpc import AUTHORIZATION, register, until
from tidegate_server.config.tls import Certificate
from tidegate_server.core.model import WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import BadCredentials
from tidegate_server.guard import Guard
from tidegate_server.metrics import Metrics

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

OPTIONS = (
    # A second server on the port is an error and no silent partner.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    # Only the identity: older versions of gRPC inflate 1 MB to 1 GB before they look at its size.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 32 << 10),
    # Of one connection; further calls wait at their client.
    ("grpc.max_concurrent_streams", 2_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Clients may ping a silent stream this often, and also without one.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A subscriber whose machine has gone is noticed, before it is handed batch after batch.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What subscribers get that do not ask: the length of a lease, the longest silence."""

    lease_ms: int = 30_000
    heartbeat_ms: int = 15_000


class ApiServer:
    """Serves an engine over gRPC. Made, started and stopped in one event loop.

    `guard` says who may come in. With a `certificate` every port speaks TLS, and each handshake
    goes by the one that is in force then.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        listen: Sequence[str],
        facts: ServerFacts,
        metrics: Metrics,
        policy: Callable[[str], WindowPolicy],
        fallback: Callable[[str], str],
        max_delay_ms: Callable[[str], int | None],
        settings: ApiSettings | None = None,
        guard: Guard | None = None,
        certificate: Callable[[], Certificate] | None = None,
    ):
        settings = settings or ApiSettings()
        self._guard = guard or Guard()
        rules = IntakeRules(policy, fallback, max_delay_ms, facts.max_message_bytes)
        self._services = {
            buffer_service_pb2.DESCRIPTOR.services_by_name["BufferService"]: BufferService(
                engine, Intake(engine, metrics, rules), max_attempts=facts.max_attempts
            ),
            delivery_service_pb2.DESCRIPTOR.services_by_name["DeliveryService"]: DeliveryService(
                engine,
                max_attempts=facts.max_attempts,
                lease_ms=settings.lease_ms,
                heartbeat_ms=settings.heartbeat_ms,
            ),
            admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]: AdminService(
                engine, metrics, facts
            ),
        }
        self._health = Health(service.full_name for service in self._services)
        engine.on_store = self._health.set_store
        self._stopped = asyncio.Event()
        self._listeners = Listeners(listen, certificate)
        self._server: grpc.aio.Server | None = None

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as given, with the real ports."""
        return self._listeners.addresses

    async def start(self) -> None:
        """Listen and answer. Health says "not serving" until `set_serving`.

        Raises:
            StartupError: An address is taken, or not to be had.
        """
        self._server = server = grpc.aio.server(options=OPTIONS)
        for descriptor, service in self._services.items():
            register(server, descriptor, service, self._guard)
        health = cast("ServiceDescriptor", health_pb2.DESCRIPTOR.services_by_name["Health"])
        # Probes have no token.
        register(server, health, self._health, Guard())
        _reflect(server, [*self._services, health], self._guard, self._stopped)
        try:
            self._listeners.bind(server)
            await server.start()
        except BaseException:
            await self.stop(0)
            raise

    def set_serving(self, serving: bool) -> None:
        """What health says from now on."""
        self._health.set_serving(serving)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those under way end for `grace` seconds, then cut them off.

        Drain the engine first: that ends the subscribers' streams.
        """
        self._stopped.set()
        self._health.close()
        if self._server is not None:
            await self._server.stop(grace)
        self._listeners.release()


def _reflect(
    server: grpc.aio.Server,
    services: Sequence[ServiceDescriptor],
    guard: Guard,
    stopped: asyncio.Event,
) -> None:
    """Reflection for any token. The library has it as v1alpha only; v1 is the same by its name."""
    names = [service.full_name for service in services]
    names += [reflection.SERVICE_NAME, REFLECTION_V1]
    answer: Any = reflection.aio.ReflectionServicer(names).ServerReflectionInfo

    async def reflect(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            guard.admit(dict(context.invocation_metadata() or ()).get(AUTHORIZATION, ""))
        except BadCredentials as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        async for response in answer(until(stopped, requests), context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        reflect,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, REFLECTION_V1):
        methods = {"ServerReflectionInfo": handler}
        generic = grpc.method_handlers_generic_handler(name, methods)
        server.add_generic_rpc_handlers((generic,))
