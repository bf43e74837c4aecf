"""Whether the store answers, said once when that changes."""

import asyncio
import time
from collections.abc import Callable

from tidegate_server.errors import StoreDamaged, StoreUnavailable
from tidegate_server.logs import get_logger

_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.0)
_CALM_S = 5.0

log = get_logger("tidegate.engine")


class Outage:
    """One view of the store for the whole engine: while it is away, one part tries and all wait.

    `on_change` is called when the store goes away and when it is back. A store `in_parts` is away
    when nothing of it answers: a call that failed may have failed with its part.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, in_parts: bool = False
    ) -> None:
        self._monotonic = monotonic
        self._in_parts = in_parts
        self.on_change: Callable[[], None] = lambda: None
        self._here = asyncio.Event()
        self._here.set()
        self._tries = 0
        self._changed_at = 0.0

    @property
    def away(self) -> bool:
        """Whether the newest word is that the store does not answer."""
        return not self._here.is_set()

    def lost(self, error: StoreUnavailable, *, all_of_it: bool = False) -> None:
        """A call failed, or one to `all_of_it`. Damage to one conversation is no outage."""
        in_part = self._in_parts and not all_of_it
        if self.away or in_part or isinstance(error, StoreDamaged):
            return
        if self._monotonic() - self._changed_at > _CALM_S:
            self._tries = 0
        self._here.clear()
        log.info("deliveries rest until the store answers", why=str(error))
        self._change()

    def back(self) -> None:
        """A call was answered."""
        if self.away:
            self._here.set()
            log.info("deliveries go on", rested_s=round(self._monotonic() - self._changed_at, 1))
            self._change()

    def pause_s(self) -> float:
        """How long to wait before the next try: longer each time, and while it comes and goes."""
        pause = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)]
        self._tries += 1
        return pause

    async def over(self) -> None:
        """Wait until the store is back."""
        await self._here.wait()

    def _change(self) -> None:
        self._changed_at = self._monotonic()
        self.on_change()
