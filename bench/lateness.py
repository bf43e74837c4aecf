"""How late batches come: spread evenly over time, and all at once."""

from collections.abc import Iterator
from typing import Any

from bench.child import Child, limited, results_of
from bench.process import Server
from bench.row import Goal, Row, Size

SPREAD, CROWD = 5_000, 10_000
MOST_IN_FLIGHT = 1_000


def rows(size: Size) -> Iterator[Row]:
    """Each round on a server of its own."""
    rounds = min(size.rounds, 3)
    yield from _spread([measure_spread(size) for _ in range(rounds)], size)
    yield from _crowd([_measure_crowd(size) for _ in range(rounds)], size)


def measure_spread(size: Size) -> list[dict[str, Any]]:
    """What subscriber and producer found of buffers whose ends are spread evenly."""
    count = size.count(SPREAD)
    with Server() as gate:
        return results_of(
            _subscriber(gate, count, streams=1, ack=True),
            _producer(gate, count, in_flight=32, first_s=size.seconds(2), last_s=size.seconds(6)),
        )


def _measure_crowd(size: Size) -> list[dict[str, Any]]:
    """Nothing is acknowledged: credits are no part of this. Few in flight, for exact ends."""
    count, ends_s = size.count(CROWD), size.seconds(8)
    streams = -(-count // MOST_IN_FLIGHT)
    with Server() as gate:
        return results_of(
            _subscriber(gate, count, streams=streams, ack=False),
            _producer(gate, count, in_flight=8, first_s=ends_s, last_s=ends_s),
        )


def _spread(rounds: list[list[dict[str, Any]]], size: Size) -> Iterator[Row]:
    note = _note(rounds, f"{size.count(SPREAD):,} buffers, ends from 2 to 6 s")
    for what in ("sealed", "received"):
        for name, goal in (("p50", None), ("p99", Goal(10)), ("max", None)):
            samples = [found[what][name] for found, _ in rounds]
            yield Row(f"lateness, {what}, {name}", samples, "ms", goal, note)


def _crowd(rounds: list[list[dict[str, Any]]], size: Size) -> Iterator[Row]:
    note = _note(rounds, "from the end of the last window")
    for what, goal in (("sealed", None), ("received", Goal(200))):
        samples = [found[f"last_{what}"] for found, _ in rounds]
        name = f"{size.count(CROWD):,} buffers due at once, last {what}"
        yield Row(name, samples, "ms", goal, note)


def _note(rounds: list[list[dict[str, Any]]], what: str) -> str:
    too_late = sum(producer["too_late"] for _, producer in rounds)
    held_up = f"{too_late} windows were over before they were opened" if too_late else ""
    failed = sum(found["failed"] for found, _ in rounds)
    unsettled = f"{failed} acks failed" if failed else ""
    subscriber = limited([found for found, _ in rounds]).replace("load generator", "subscriber")
    return "; ".join(filter(None, (what, held_up, unsettled, subscriber)))


def _subscriber(gate: Server, count: int, *, streams: int, ack: bool) -> Child:
    options: dict[str, Any] = {"streams": streams, "max_in_flight": MOST_IN_FLIGHT, "ack": ack}
    return Child("subscriber", "receive", target=gate.target, count=count, **options)


def _producer(gate: Server, count: int, *, in_flight: int, first_s: float, last_s: float) -> Child:
    ends: dict[str, Any] = {"first_s": first_s, "last_s": last_s}
    options: dict[str, Any] = {
        "target": gate.target,
        "count": count,
        "in_flight": in_flight,
        "name": "w",
    }
    return Child("producer", "windows", **options, **ends)
