"""What a store over connections has, however many its partitions: two channels, and an end."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tidegate_server.errors import TidegateError
from tidegate_server.store.base import Store
from tidegate_server.store.dial import Dialer
from tidegate_server.store.notices import Channel, event_of, event_row, notice_of, notice_row
from tidegate_server.store.redis.runner import Runner
from tidegate_server.store.signals import LiveEvent, Notice


class Connected(Store):
    """A store whose partitions have a runner each. The channels are one for all of them."""

    def __init__(self, dialer: Dialer, runners: Sequence[Runner]):
        keys = runners[0].keys
        self.runners = runners
        self.partitions = len(runners)
        self._handlers: list[Callable[[Notice], None]] = []
        self._watcher: Callable[[LiveEvent], None] | None = None
        self._notices = Channel(dialer, keys.notices, self._hear)
        self._events = Channel(dialer, keys.events, self._see)

    @property
    def away(self) -> str | None:
        """Why no partition can be reached at the moment, None if one can."""
        reasons = [runner.pipeline.away for runner in self.runners]
        return reasons[0] if all(reasons) else None

    def start(self) -> None:
        """Begin to send and to listen."""
        for runner in self.runners:
            runner.pipeline.start()
        self._notices.start()

    async def stop(self) -> None:
        """Send what waits and close the connections."""
        await self._events.stop()
        await self._notices.stop()
        await asyncio.gather(*(runner.pipeline.stop() for runner in self.runners))

    async def tell(self, notices: Sequence[Notice]) -> None:
        """As the base says."""
        await self._publish(
            self.runners[0].keys.notices, self._notices.pack(map(notice_row, notices))
        )

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """As the base says."""
        self._handlers.append(handler)

    async def publish(self, events: Sequence[LiveEvent]) -> None:
        """As the base says."""
        await self._publish(self.runners[0].keys.events, self._events.pack(map(event_row, events)))

    def watch(self, handler: Callable[[LiveEvent], None] | None) -> None:
        """As the base says. There is a connection for it only as long as there is a handler."""
        self._watcher = handler
        if handler:
            self._events.start()
        else:
            self._events.end()

    async def _publish(self, channel: str, body: bytes) -> None:
        """To any node: all of a Cluster hear it."""
        here = (runner for runner in self.runners if not runner.pipeline.away)
        with suppress(TidegateError):
            await next(here, self.runners[0]).call("PUBLISH", channel, body)

    def _hear(self, rows: list[Any]) -> None:
        for notice in [notice_of(row) for row in rows]:
            for handler in self._handlers:
                handler(notice)

    def _see(self, rows: list[Any]) -> None:
        for event in [event_of(row) for row in rows]:
            if self._watcher:
                self._watcher(event)
