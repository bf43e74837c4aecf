"""Finds what was left behind: leases that ran out, and what is due and nobody's timer knows.

Lost subscribers, dead servers and lost notices all come back this one way.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

from tidegate_server.core.model import BatchState, Conversation
from tidegate_server.engine.clock import StoreClocks
from tidegate_server.engine.outage import Outage
from tidegate_server.errors import StoreDamaged, StoreUnavailable
from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import Horizon, Settled, Store

_LIMIT = 256
_IDLE_FACTOR = 5
_RECONCILE_S = 30.0
_HURRIED_S = 0.02
_RECONCILED = 200

log = get_logger("tidegate.engine")


class Recoverer:
    """Sweeps the store's indexes within every `sweep_ms`, five times as seldom when not `busy`.

    What it takes back goes to `recovered`, what it saw to `survey`. While the store is away, it is
    the one that tries.
    """

    def __init__(
        self,
        store: Store,
        clocks: StoreClocks,
        *,
        outage: Outage,
        metrics: Metrics,
        recovered: Callable[[Settled], None],
        survey: Callable[[Horizon], None],
        busy: Callable[[], bool],
        sweep_ms: int,
    ):
        self._store = store
        self._clocks = clocks
        self._outage = outage
        self._metrics = metrics
        self._recovered = recovered
        self._survey = survey
        self._busy = busy
        self._sweep_s = sweep_ms / 1_000
        self._now = asyncio.Event()
        self._hurry = asyncio.Event()

    def look(self) -> None:
        """Sweep as soon as possible, not just at the next round."""
        self._now.set()

    async def sweep_forever(self) -> None:
        """Sweep, rest, sweep again; in an outage rest as long as that says."""
        while True:
            if self._outage.away:
                await asyncio.sleep(self._outage.pause_s())
            self._now.clear()
            try:
                await self.sweep()
            except StoreUnavailable as error:
                self._outage.lost(error, all_of_it=True)
            if not self._outage.away:
                await self._rest()

    async def reconcile_forever(self) -> None:
        """Walk slowly through all keys, and repair what cannot happen; in one go if told so."""
        while True:
            await self._until_told(self._hurry, _RECONCILE_S)
            await self._outage.over()
            try:
                await (self._reconcile_all() if self._hurry.is_set() else self.reconcile())
            except StoreUnavailable as error:
                self._outage.lost(error)

    def set_back(self) -> None:
        """The store's clock was set back: have all times in the store follow, and soon."""
        if not self._hurry.is_set():
            log.warning("the store's clock was set back, what it holds is moved with it")
        self._hurry.set()

    async def sweep(self) -> None:
        """Look at the indexes once, and take back what is over.

        Raises:
            StoreUnavailable: They could not be read.
        """
        sent_ms = self._clocks.first.local_ms()
        horizon = await self._store.horizon(limit=_LIMIT)
        self._clocks.saw(horizon, sent_ms)
        self._outage.back()
        self._survey(horizon)
        await self.recover(horizon.expired)
        if len(horizon.expired) >= _LIMIT:
            self.look()

    async def recover(self, conversations: Sequence[Conversation]) -> None:
        """Take back batches whose lease is over, each by itself: one that fails stops no other."""
        await asyncio.gather(*(self._expire(conversation) for conversation in conversations))

    async def reconcile(self) -> None:
        """Look at some more conversations.

        Raises:
            StoreUnavailable: They could not be read.
        """
        repairs = await self._store.reconcile(limit=_RECONCILED)
        self._metrics.repairs += repairs
        if repairs:
            log.warning("store repaired", repairs=repairs)

    async def _reconcile_all(self) -> None:
        """Walk to the end of the keys, and once through all of them."""
        self._hurry.clear()
        goal = self._store.reconciled + 2
        try:
            while self._store.reconciled < goal:
                await self.reconcile()
                await asyncio.sleep(_HURRIED_S)
        except StoreUnavailable:
            self._hurry.set()
            raise

    async def _expire(self, conversation: Conversation) -> None:
        try:
            settled = await self._store.expire(conversation)
        except StoreDamaged:
            log.error("a lease cannot be taken back: its keys in the store are damaged")
        except StoreUnavailable as error:
            self._outage.lost(error)
        except Exception:
            log.exception("a lease that is over could not be taken back")
        else:
            if settled:
                self._metrics.expired += 1
                self._metrics.dead_lettered += settled.state is BatchState.DEAD_LETTERED
                self._recovered(settled)

    async def _rest(self) -> None:
        rest_s = self._sweep_s if self._busy() else _IDLE_FACTOR * self._sweep_s
        # Never longer than said; and those that were started together shall not sweep together.
        rest_s *= random.uniform(0.7, 0.9)  # noqa: S311 - no secret
        await self._until_told(self._now, rest_s)

    async def _until_told(self, told: asyncio.Event, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await told.wait()
