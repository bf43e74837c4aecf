"""The store on Redis or Valkey: one method per script, each one round trip that it may share."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tidegate_server.errors import TidegateError
from tidegate_server.store.dial import Dialer
from tidegate_server.store.notices import Channel, event_of, event_row, notice_of, notice_row
from tidegate_server.store.pipeline import Counters
from tidegate_server.store.redis.archive import Archive
from tidegate_server.store.redis.buffers import Buffers
from tidegate_server.store.redis.deliveries import Deliveries
from tidegate_server.store.redis.runner import Rules, Runner
from tidegate_server.store.signals import LiveEvent, Notice

__all__ = ["RedisStore", "Rules"]


class RedisStore(Deliveries, Buffers, Archive):
    """The store. With `replicas`, so many confirm what is done; `clock`, `jitter` are for tests."""

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
        self._handlers: list[Callable[[Notice], None]] = []
        self._watcher: Callable[[LiveEvent], None] | None = None
        self._notices = Channel(dialer, self.runner.keys.notices, self._hear)
        self._events = Channel(dialer, self.runner.keys.events, self._see)

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
        await self._events.stop()
        await self._notices.stop()
        await self.runner.pipeline.stop()

    async def tell(self, notices: Sequence[Notice]) -> None:
        """As the base says."""
        await self._publish(self.runner.keys.notices, self._notices.pack(map(notice_row, notices)))

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """As the base says."""
        self._handlers.append(handler)

    async def publish(self, events: Sequence[LiveEvent]) -> None:
        """As the base says."""
        await self._publish(self.runner.keys.events, self._events.pack(map(event_row, events)))

    def watch(self, handler: Callable[[LiveEvent], None] | None) -> None:
        """As the base says. There is a connection for it only as long as there is a handler."""
        self._watcher = handler
        if handler:
            self._events.start()
        else:
            self._events.end()

    async def _publish(self, channel: str, body: bytes) -> None:
        with suppress(TidegateError):
            await self.runner.call("PUBLISH", channel, body)

    def _hear(self, rows: list[Any]) -> None:
        for notice in [notice_of(row) for row in rows]:
            for handler in self._handlers:
                handler(notice)

    def _see(self, rows: list[Any]) -> None:
        for event in [event_of(row) for row in rows]:
            if self._watcher:
                self._watcher(event)
