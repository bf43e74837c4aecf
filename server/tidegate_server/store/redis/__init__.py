"""The store on Redis or Valkey: one method per script, each one round trip that it may share."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis.asyncio.connection import AbstractConnection

from tidegate_server.errors import TidegateError
from tidegate_server.store.base import Notice
from tidegate_server.store.notices import Notices
from tidegate_server.store.pipeline import Counters
from tidegate_server.store.redis.archive import Archive
from tidegate_server.store.redis.buffers import Buffers
from tidegate_server.store.redis.deliveries import Deliveries
from tidegate_server.store.redis.runner import Rules, Runner

__all__ = ["RedisStore", "Rules"]


class RedisStore(Deliveries, Buffers, Archive):
    """The store. `connect` makes connections that are not open; `clock`, `jitter` are for tests."""

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
        self._notices = Notices(connect, self.runner.keys.notices)

    @property
    def away(self) -> str | None:
        """Why the store cannot be reached at the moment, None if it can."""
        return self.runner.pipeline.away

    def start(self) -> None:
        """Begin to send and to listen."""
        self.runner.pipeline.start()
        self._notices.start()

    async def stop(self) -> None:
        """Send what waits and close the connections."""
        await self._notices.stop()
        await self.runner.pipeline.stop()

    async def tell(self, notices: Sequence[Notice]) -> None:
        """As the base says."""
        with suppress(TidegateError):
            await self.runner.call("PUBLISH", self.runner.keys.notices, self._notices.pack(notices))

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """As the base says."""
        self._notices.handlers.append(handler)
