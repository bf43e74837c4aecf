import subprocess
import sys
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from tidegate_server.metrics import BUCKETS, COUNTERS, HISTOGRAMS, Histogram, Metrics


@given(st.lists(st.floats(0, 100) | st.sampled_from(BUCKETS)))
def test_every_duration_is_in_the_first_bucket_that_holds_it(durations: list[float]) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(seconds)
    assert histogram.count == len(durations)
    assert histogram.sum == sum(durations)
    for n, bound in enumerate(BUCKETS):
        assert sum(histogram.counts[: n + 1]) == sum(seconds <= bound for seconds in durations)


def test_the_bounds_rise() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert bisect_left(BUCKETS, 0.003) < bisect_left(BUCKETS, 0.0031)


def test_a_snapshot_has_every_number_under_its_metrics_name() -> None:
    metrics = Metrics(added=1, store_errors=2)
    metrics.refused.update(["QUOTA_EXCEEDED", "STORE_FULL"])
    metrics.add_seconds.observe(0.5)
    snapshot = metrics.snapshot()
    assert snapshot["messages_added_total"] == 1
    assert snapshot["store_errors_total"] == 2
    assert snapshot["messages_refused_total"] == 2
    assert (snapshot["add_seconds_count"], snapshot["add_seconds_sum"]) == (1, 0.5)
    assert len(snapshot) == len(COUNTERS) + 1 + 2 * len(HISTOGRAMS)


def test_every_attribute_has_a_metric() -> None:
    named = {spec.attribute for spec in (*COUNTERS, *HISTOGRAMS)}
    assert set(Metrics.__slots__) == named | {"refused", "subscribers"}


def test_counting_needs_no_prometheus() -> None:
    code = "import sys, tidegate_server.metrics; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
