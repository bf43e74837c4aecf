"""The metrics as Prometheus reads them. No label ever names an instance or a conversation."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidegate_server.metrics import BUCKETS, COUNTERS, HISTOGRAMS, REFUSED, Histogram, Metrics
from tidegate_server.store.base import Stats

PREFIX = "tidegate_"


def _version() -> str:
    try:
        return version("tidegate")
    except PackageNotFoundError:
        return "unknown"


_VERSION = _version()


class MetricsCollector(Collector):
    """One scrape: the counters, and the gauges of the store unless it is away (None)."""

    def __init__(self, metrics: Metrics, stats: Stats | None):
        self._metrics = metrics
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        build = GaugeMetricFamily(PREFIX + "build_info", "Always 1.", labels=["version"])
        build.add_metric([_VERSION], 1)
        yield build

    def _counters(self) -> Iterator[Metric]:
        for spec in COUNTERS:
            value = getattr(self._metrics, spec.attribute)
            yield CounterMetricFamily(PREFIX + spec.name, spec.help, value=value)
        refused = CounterMetricFamily(PREFIX + REFUSED.name, REFUSED.help, labels=["reason"])
        for reason, count in sorted(self._metrics.refused.items()):
            refused.add_metric([reason], count)
        yield refused

    def _histograms(self) -> Iterator[Metric]:
        for spec in HISTOGRAMS:
            histogram: Histogram = getattr(self._metrics, spec.attribute)
            bounds = [*map(str, BUCKETS), "+Inf"]
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            yield HistogramMetricFamily(
                PREFIX + spec.name, spec.help, buckets=buckets, sum_value=histogram.sum
            )

    def _gauges(self) -> Iterator[Metric]:
        yield _gauge("subscribers", "Streams and long polls.", self._metrics.subscribers)
        yield _gauge("store_up", "Whether the store answered this scrape.", self._stats is not None)
        if (stats := self._stats) is None:
            return
        yield _gauge("open_buffers", "Open buffers.", stats.open_buffers)
        yield _gauge("buffered_messages", "Messages in open buffers.", stats.buffered_messages)
        yield _gauge("batches_in_flight", "Batches leased.", stats.delivering_batches)
        yield _gauge("batches_retrying", "Batches that wait for a retry.", stats.retrying_batches)
        yield _gauge("dead_letters", "Dead letters.", stats.dead_letters)
        yield _gauge(
            "oldest_due_age_seconds",
            "How long the buffer that has waited longest past its window has waited.",
            stats.oldest_due_age_ms / 1_000,
        )


def exposition(metrics: Metrics, stats: Stats | None) -> bytes:
    """The text of one scrape. The cost does not grow with the number of conversations."""
    return generate_latest(MetricsCollector(metrics, stats))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)
