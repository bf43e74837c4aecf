from structlog.testing import capture_logs

from tests.engine.support import WatchedStore
from tidegate_server.engine.clock import StoreClocks
from tidegate_server.engine.outage import Outage
from tidegate_server.engine.recoverer import Recoverer
from tidegate_server.metrics import Metrics
from tidegate_server.store.memory.state import World


class DamagedStore(WatchedStore):
    async def reconcile(self, *, limit: int) -> int:
        return 2


async def test_repairs_are_counted_and_said():
    metrics = Metrics()
    store = DamagedStore(World())
    recoverer = Recoverer(
        store,
        StoreClocks(store),
        outage=Outage(),
        metrics=metrics,
        recovered=lambda _: None,
        survey=lambda _: None,
        busy=lambda: True,
        sweep_ms=1_000,
    )
    with capture_logs() as logs:
        await recoverer.reconcile()
    assert metrics.repairs == 2
    assert [(entry["log_level"], entry["repairs"]) for entry in logs] == [("warning", 2)]
