"""Work in the background that cannot die in silence."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tidegate_server.logs import get_logger

_RESTART_S = 1.0

log = get_logger("tidegate.engine")


class Tasks:
    """The engine's tasks. A failure is logged with its traceback; endless ones start again."""

    def __init__(self) -> None:
        self._short: set[asyncio.Task[Any]] = set()
        self._endless: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something once, beside what the caller does."""
        task = asyncio.create_task(work)
        self._short.add(task)
        task.add_done_callback(self._ended)
        return task

    def forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run something that should never end; whenever it does, start it again."""
        self._endless.add(asyncio.create_task(self._repeat(name, work), name=name))

    async def join(self) -> None:
        """Wait until nothing that was spawned is under way."""
        while self._short:
            await asyncio.wait(set(self._short))

    async def stop(self) -> None:
        """Cancel everything."""
        tasks = self._short | self._endless
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._endless.clear()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._short.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task failed", exc_info=error)

    async def _repeat(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("task failed and starts again", task=name)
            await asyncio.sleep(_RESTART_S)
