"""The reference store: what the scripts do, said in Python on top of `core`.

For tests. Several servers share one store by `replica()`. It is not durable and not fast.
"""

import asyncio
from collections.abc import Callable, Sequence

from tidegate_server.store.memory.archive import Archive
from tidegate_server.store.memory.buffers import Buffers
from tidegate_server.store.memory.deliveries import Deliveries
from tidegate_server.store.memory.state import World
from tidegate_server.store.signals import LiveEvent, Notice

__all__ = ["MemoryStore", "World"]


class MemoryStore(Deliveries, Buffers, Archive):
    """A store in this process's memory."""

    def __init__(self, world: World | None = None):
        self.world = world or World()
        self._handlers: list[Callable[[Notice], None]] = []
        self.world.replicas.append(self._handlers)

    def replica(self) -> "MemoryStore":
        """The same store as another server sees it."""
        return MemoryStore(self.world)

    async def tell(self, notices: Sequence[Notice]) -> None:
        """Call the handlers of all other replicas soon."""
        loop = asyncio.get_running_loop()
        for handlers in self.world.replicas:
            if handlers is not self._handlers:
                for handler in handlers:
                    for notice in notices:
                        loop.call_soon(handler, notice)

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """Have the handler called for what other replicas tell."""
        self._handlers.append(handler)

    async def publish(self, events: Sequence[LiveEvent]) -> None:
        """Call the handlers of all other replicas that watch soon."""
        loop = asyncio.get_running_loop()
        for handler in [w for owner, w in self.world.watchers.items() if owner is not self]:
            for event in events:
                loop.call_soon(handler, event)

    def watch(self, handler: Callable[[LiveEvent], None] | None) -> None:
        """Have the handler called for what other replicas publish."""
        if handler:
            self.world.watchers[self] = handler
        else:
            self.world.watchers.pop(self, None)

    _reconciled = 0

    async def reconcile(self, *, limit: int) -> int:
        """Nothing can be damaged here."""
        self._reconciled += 1
        return 0

    @property
    def reconciled(self) -> int:
        """As the base says: each time."""
        return self._reconciled
