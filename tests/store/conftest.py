"""Stores on real servers: every test that asks for `real` runs on each kind of them."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.support.stores import StoreProcess, binaries
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.metrics import Metrics
from tidegate_server.store.connect import Address
from tidegate_server.store.redis import PartitionedStore, RedisStore, Rules, new_store

AnyStore = RedisStore | PartitionedStore


class Real:
    """A store process, a plain client of it, and as many servers' views of it as wanted."""

    def __init__(self, process: StoreProcess, partitions: int = 1):
        self.process = process
        self.partitions = partitions
        self.client: Redis = process.client()
        self.metrics = Metrics()
        self.stores: list[AnyStore] = []

    def store(
        self,
        *,
        clock: Callable[[], int] | None = None,
        timeout: float = 5,
        rules: Rules | None = None,
    ) -> AnyStore:
        store = new_store(
            Address(self.process.user_url, timeout=timeout).dialer,
            partitions=self.partitions,
            counters=self.metrics,
            timeout=timeout,
            rules=rules or Rules(retry=RetryPolicy(base_ms=10)),
            clock=clock,
        )
        store.start()
        self.stores.append(store)
        return store


KINDS = [(name, path, 1) for name, path in binaries()]
PARTITIONED = [(f"{name}-64", path, 64) for name, path in binaries()[:1]]
"""A store of many partitions, on the one that all tests prefer."""


@asynccontextmanager
async def started(kind: tuple[str, Path, int]) -> AsyncGenerator[Real]:
    _, path, partitions = kind
    async with StoreProcess(path) as process:
        world = Real(process, partitions)
        yield world
        for store in world.stores:
            await store.stop()
        await world.client.aclose()


@pytest_asyncio.fixture(params=KINDS, ids=lambda kind: kind[0])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[Real]:
    async with started(request.param) as world:
        yield world
