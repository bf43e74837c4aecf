from structlog.testing import capture_logs

from tidegate_server.engine.lateness import Lateness
from tidegate_server.metrics import Metrics


def test_late_batches_are_counted_and_reported_together():
    now = 100.0
    metrics = Metrics()
    lateness = Lateness(metrics, late_after_ms=1_000, monotonic=lambda: now)
    with capture_logs() as logs:
        for late_ms in (1_000, 1_001, 5_000, 2_000):
            lateness.observe(late_ms)
        assert [(log["batches"], log["worst_s"]) for log in logs] == [(1, 1.0)]
        now += 10
        lateness.observe(1_500)
    assert [(log["batches"], log["worst_s"]) for log in logs[1:]] == [(3, 5.0)]
    assert (metrics.late, metrics.lateness_seconds.count) == (4, 5)
