"""How late batches are formed, and a word about it when that is too late."""

import time
from collections.abc import Callable

from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics

_REPORT_S = 10.0

log = get_logger("tidegate.engine")


class Lateness:
    """Counts each batch, and reports those later than `late_after_ms`, at most every 10 s."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        late_after_ms: int,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._monotonic = monotonic
        self._metrics = metrics
        self._late_after_ms = late_after_ms
        self._batches = 0
        self._worst_ms = 0
        self._next_report = 0.0

    def observe(self, late_ms: int) -> None:
        """A batch was handed out for the first time, this long after its window's end."""
        self._metrics.lateness_seconds.observe(late_ms / 1_000)
        if late_ms <= self._late_after_ms:
            return
        self._metrics.late += 1
        self._batches += 1
        self._worst_ms = max(self._worst_ms, late_ms)
        if self._monotonic() >= self._next_report:
            self._report()

    def _report(self) -> None:
        """Tell of those since the last report."""
        log.warning(
            "batches are late; have more subscribers, or more room for each",
            batches=self._batches,
            worst_s=round(self._worst_ms / 1_000, 1),
        )
        self._batches = self._worst_ms = 0
        self._next_report = self._monotonic() + _REPORT_S
