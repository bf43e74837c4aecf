"""Numbers about this replica: plain attributes where the work is done, named when they are read."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
"""Upper bounds in seconds, dense around the 3 ms that are the goal."""


class Histogram:
    """Durations, counted by bucket; the last count is of those above all bounds."""

    __slots__ = ("counts", "sum")

    def __init__(self):
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)


@dataclass(slots=True, eq=False)
class Metrics:
    """What this replica has done since it started; count with `metrics.added += n`.

    `refused` is by the reason of the error. `subscribers` is the one that also goes down.
    """

    added: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    fallbacks: int = 0
    delivered: int = 0
    late: int = 0
    acked: int = 0
    retried: int = 0
    released: int = 0
    rebuffered: int = 0
    superseded: int = 0
    expired: int = 0
    dead_lettered: int = 0
    push_sent: int = 0
    push_failed: int = 0
    push_off: int = 0
    repairs: int = 0
    store_round_trips: int = 0
    store_commands: int = 0
    store_errors: int = 0
    subscribers: int = 0
    lateness_seconds: Histogram = field(default_factory=Histogram)
    add_seconds: Histogram = field(default_factory=Histogram)

    def snapshot(self) -> dict[str, float]:
        """All counters by the name of their metric without "tidegate_"."""
        values = {spec.name: float(getattr(self, spec.attribute)) for spec in COUNTERS}
        values[REFUSED.name] = float(sum(self.refused.values()))
        for spec in HISTOGRAMS:
            histogram: Histogram = getattr(self, spec.attribute)
            values[f"{spec.name}_count"] = float(histogram.count)
            values[f"{spec.name}_sum"] = histogram.sum
        return values


class Spec(NamedTuple):
    """An attribute of `Metrics`, its metric's name without "tidegate_", and what it counts."""

    attribute: str
    name: str
    help: str


COUNTERS = (
    Spec("added", "messages_added_total", "Messages taken into a buffer."),
    Spec("duplicates", "messages_duplicate_total", "Messages that had been taken before."),
    Spec("fallbacks", "messages_fallback_total", "Messages handed back to be handled at once."),
    Spec("delivered", "batches_delivered_total", "Deliveries of batches begun."),
    Spec("late", "batches_late_total", "Batches later than TIDEGATE_LATE_AFTER."),
    Spec("acked", "batches_acked_total", "Batches settled as processed."),
    Spec("retried", "batches_retried_total", "Deliveries nacked to be tried again."),
    Spec("released", "batches_released_total", "Deliveries given back untried."),
    Spec("rebuffered", "batches_rebuffered_total", "Batches that went back to their buffer."),
    Spec("superseded", "batches_superseded_total", "Hints to a stream that a user wrote again."),
    Spec("expired", "leases_expired_total", "Leases that ran out."),
    Spec("dead_lettered", "batches_dead_lettered_total", "Batches that became dead letters."),
    Spec("push_sent", "pushes_sent_total", "Pushes that the endpoint took."),
    Spec("push_failed", "pushes_failed_total", "Pushes that the endpoint did not take."),
    Spec("push_off", "push_endpoints_gone_total", "Endpoints that answered 410 and are off."),
    Spec(
        "repairs",
        "repairs_total",
        "Repairs of the store's keys; 0 unless others change them or its clock is set back.",
    ),
    Spec("store_round_trips", "store_round_trips_total", "Round trips to the store."),
    Spec("store_commands", "store_commands_total", "Commands sent to the store."),
    Spec("store_errors", "store_errors_total", "Commands that the store failed or never answered."),
)
REFUSED = Spec("refused", "messages_refused_total", "Messages refused, by the error's reason.")
HISTOGRAMS = (
    Spec("lateness_seconds", "lateness_seconds", "From a window's end to its batch's forming."),
    Spec("add_seconds", "add_seconds", "From a message's coming to the answer."),
)
