"""Stores on real servers: every test that asks for `real` runs on each kind of them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.support.stores import StoreProcess, binaries
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.metrics import Metrics
from tidegate_server.store.connect import Address
from tidegate_server.store.redis import RedisStore, Rules


class Real:
    """A store process, a plain client of it, and as many servers' views of it as wanted."""

    def __init__(self, process: StoreProcess):
        self.process = process
        self.client: Redis = process.client()
        self.metrics = Metrics()
        self.stores: list[RedisStore] = []

    def store(
        self,
        *,
        clock: Callable[[], int] | None = None,
        timeout: float = 5,
        rules: Rules | None = None,
    ) -> RedisStore:
        store = RedisStore(
            Address(self.process.url, timeout=timeout).dialer(),
            counters=self.metrics,
            timeout=timeout,
            rules=rules or Rules(retry=RetryPolicy(base_ms=10)),
            clock=clock,
        )
        store.start()
        self.stores.append(store)
        return store


@pytest_asyncio.fixture(params=binaries(), ids=lambda kind: kind[0])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[Real]:
    kind: tuple[str, Path] = request.param
    async with StoreProcess(kind[1]) as process:
        world = Real(process)
        yield world
        for store in world.stores:
            await store.stop()
        await world.client.aclose()
