"""The standard health service, grpc.health.v1.

The library's own cannot end its `Watch` streams, and then a stop waits the whole grace for them.
"""

import asyncio
from collections.abc import Iterable

from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

from tidegate_server.api.rpc import Call
from tidegate_server.errors import NotFound


class Health:
    """Says of each of `services`, and of "" for the whole server, whether it serves.

    A service does not while the store is away, the server as a whole still does: ask a service
    for readiness, and "" for liveness.
    """

    def __init__(self, services: Iterable[str]):
        self._services = frozenset(services) | {""}
        self._serving = False
        self._has_store = True
        self._closed = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Say from now on that the server serves, or does not."""
        self._serving = serving
        self._tell()

    def set_store(self, here: bool) -> None:
        """Say from now on that the store answers, or does not."""
        self._has_store = here
        self._tell()

    def close(self) -> None:
        """End every `Watch`, the last word being that the server does not serve."""
        self._closed = True
        self.set_serving(False)

    async def check(self, request: HealthCheckRequest, call: Call) -> HealthCheckResponse:
        """The health of one service now."""
        if request.service not in self._services:
            raise NotFound("service", "of that name")
        return HealthCheckResponse(status=self._status(request.service))

    async def list(self, request: HealthListRequest, call: Call) -> HealthListResponse:
        """The health of each service now."""
        statuses = {
            service: HealthCheckResponse(status=self._status(service)) for service in self._services
        }
        return HealthListResponse(statuses=statuses)

    async def watch(self, request: HealthCheckRequest, call: Call) -> None:
        """The health of one service now and whenever it changes."""
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                await call.write(HealthCheckResponse(status=status))
                told = status
            elif self._closed:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        serves = self._serving and (self._has_store or not service)
        return HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
