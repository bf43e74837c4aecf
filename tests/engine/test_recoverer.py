import asyncio

from structlog.testing import capture_logs

from tests.engine.support import WatchedStore
from tests.support.stores import eventually
from tidegate_server.engine.clock import StoreClocks
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.recoverer import Recoverer
from tidegate_server.metrics import Metrics
from tidegate_server.store.memory.state import World


class DamagedStore(WatchedStore):
    async def reconcile(self, *, limit: int) -> int:
        return 2


class LongStore(WatchedStore):
    """Takes three looks to go through."""

    def __init__(self, world: World):
        super().__init__(world)
        self.looks = 0

    async def reconcile(self, *, limit: int) -> int:
        self.looks += 1
        return 0

    @property
    def reconciled(self) -> int:
        return self.looks // 3


def recoverer_of(store: WatchedStore, metrics: Metrics) -> Recoverer:
    return Recoverer(
        store,
        StoreClocks(store),
        outage=Outage(),
        metrics=metrics,
        recovered=lambda _: None,
        survey=lambda _: None,
        busy=lambda: True,
        sweep_ms=1_000,
    )


async def test_when_the_store_s_clock_was_set_back_all_of_it_is_seen_to_at_once():
    store = LongStore(World())
    recoverer = recoverer_of(store, Metrics())
    await recoverer.reconcile()
    recoverer.set_back()
    walk = asyncio.create_task(recoverer.reconcile_forever())
    await eventually(lambda: store.looks >= 6)
    await asyncio.sleep(0)
    walk.cancel()
    assert store.looks == 6


async def test_repairs_are_counted_and_said():
    metrics = Metrics()
    recoverer = recoverer_of(DamagedStore(World()), metrics)
    with capture_logs() as logs:
        await recoverer.reconcile()
    assert metrics.repairs == 2
    assert [(entry["log_level"], entry["repairs"]) for entry in logs] == [("warning", 2)]
