"""What it costs to be there: the start, memory, and processor time without work."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.child import Child, results_of
from bench.process import Server, rss_mb
from bench.row import Goal, Row, Size

BUFFERS = 10_000


@dataclass(frozen=True, slots=True)
class _Round:
    started_s: float
    server_mb: float
    store_mb: float
    idle_percent: float


def rows(size: Size) -> Iterator[Row]:
    """Each round on a server of its own, with an empty data directory."""
    rounds = [_measure(size) for _ in range(size.rounds)]
    yield Row("start until serving, embedded store", [r.started_s for r in rounds], "s", Goal(1))
    yield Row("memory of the idle server", [r.server_mb for r in rounds], "MB", Goal(80))
    yield Row("memory of the idle store", [r.store_mb for r in rounds], "MB")
    idle = [r.idle_percent for r in rounds]
    yield Row("processor, idle server and store, of one core", idle, "%", Goal(0.5))
    yield _per_buffer(size)


def _measure(size: Size) -> _Round:
    with Server() as gate:
        time.sleep(size.seconds(1))
        before, seconds = gate.cpu_s(), size.seconds(4)
        time.sleep(seconds)
        idle_percent = (gate.cpu_s() - before) / seconds * 100
        return _Round(gate.started_s, rss_mb(gate.pid), rss_mb(gate.store_pid), idle_percent)


def _per_buffer(size: Size) -> Row:
    count = size.count(BUFFERS)
    samples: list[float] = []
    with Server() as gate:
        for n in range(min(size.rounds, 3)):
            before = gate.store_memory_bytes()
            options: dict[str, Any] = {
                "target": gate.target,
                "count": count,
                "in_flight": 64,
                "name": f"r{n}",
            }
            results_of(Child("producer", "windows", **options, first_s=3_000, last_s=3_000))
            samples.append((gate.store_memory_bytes() - before) / count)
    name = "store memory per open buffer, one message"
    return Row(name, samples, "bytes", Goal(1024), f"{count:,} buffers a round")
