"""The store on Redis or Valkey: one method per script, each one round trip that it may share."""

import random
from collections.abc import Callable
from typing import TypedDict

from tidegate_server.store.dial import Dialer
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

    With `replicas`, so many confirm what is done; `clock`, `jitter` are for tests.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        counters: Counters,
        prefix: str = "tg",
        timeout: float = 1.0,
        replicas: int = 0,
        rules: Rules | None = None,
        clock: Callable[[], int] | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        self.runner = Runner(
            dialer,
            counters=counters,
            prefix=prefix,
            timeout=timeout,
            replicas=replicas,
            rules=rules,
            clock=clock,
            jitter=jitter,
        )
        super().__init__(dialer, [self.runner])


def new_store(
    dialer: Callable[[int], Dialer],
    *,
    partitions: int,
    counters: Counters,
    prefix: str = "tg",
    timeout: float = 1.0,
    replicas: int = 0,
    rules: Rules | None = None,
    clock: Callable[[], int] | None = None,
) -> RedisStore | PartitionedStore:
    """A store of so many partitions. `dialer` gives the way to each."""
    options: Options = {
        "counters": counters,
        "prefix": prefix,
        "timeout": timeout,
        "replicas": replicas,
        "rules": rules,
        "clock": clock,
    }
    if partitions == 1:
        return RedisStore(dialer(0), **options)
    dialers = [dialer(number) for number in range(partitions)]
    runners = [Runner(one, partition=n, **options) for n, one in enumerate(dialers)]
    return PartitionedStore(dialers, runners)


class Options(TypedDict):
    """What the runners of a store have in common."""

    counters: Counters
    prefix: str
    timeout: float
    replicas: int
    rules: Rules | None
    clock: Callable[[], int] | None
