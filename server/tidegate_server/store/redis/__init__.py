"""The store on Redis or Valkey: one method per script, each one round trip that it may share."""

import random
from collections.abc import Callable

from redis.asyncio.connection import AbstractConnection

from tidegate_server.store.pipeline import Counters
from tidegate_server.store.redis.archive import Archive
from tidegate_server.store.redis.buffers import Buffers
from tidegate_server.store.redis.connected import Connected
from tidegate_server.store.redis.deliveries import Deliveries
from tidegate_server.store.redis.partitioned import PartitionedStore
from tidegate_server.store.redis.runner import Rules, Runner

__all__ = ["Connected", "PartitionedStore", "RedisStore", "Rules", "new_store"]


class RedisStore(Deliveries, Buffers, Archive, Connected):
    """The store that is one partition.

    `connect` makes connections that are not open; `clock`, `jitter` are for tests.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        *,
        counters: Counters,
        prefix: str = "tg",
        timeout: float = 1.0,
        rules: Rules | None = None,
        clock: Callable[[], int] | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        self.runner = Runner(
            connect,
            counters=counters,
            prefix=prefix,
            timeout=timeout,
            rules=rules,
            clock=clock,
            jitter=jitter,
        )
        super().__init__(connect, [self.runner])


def new_store(
    connect: Callable[[int], Callable[[], AbstractConnection]],
    *,
    partitions: int,
    counters: Counters,
    prefix: str = "tg",
    timeout: float = 1.0,
    rules: Rules | None = None,
    clock: Callable[[], int] | None = None,
) -> RedisStore | PartitionedStore:
    """A store of so many partitions. `connect` gives each what makes its connections."""
    if partitions == 1:
        return RedisStore(
            connect(0), counters=counters, prefix=prefix, timeout=timeout, rules=rules, clock=clock
        )
    runners = [
        Runner(
            connect(number),
            counters=counters,
            prefix=prefix,
            partition=number,
            timeout=timeout,
            rules=rules,
            clock=clock,
        )
        for number in range(partitions)
    ]
    return PartitionedStore(connect(0), runners)
