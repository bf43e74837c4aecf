"""An event loop without waiting: when nothing is left to do, the clock jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class Deadlock(Exception):
    """Nothing is left to do, and no timer will ever go off."""


class _Jump(selectors.BaseSelector):
    """Selects nothing, and takes the loop's clock forward instead."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._map[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        if timeout > 0 and self.loop:
            self.loop.now_s += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and only passes between two steps. The same program, the same order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        jump = _Jump()
        super().__init__(jump)
        jump.loop = self
        # A sum of floats may miss a timer's time by a little.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now_s
