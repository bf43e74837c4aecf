"""How many single adds a second, against the least that the same server could do."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.child import Child, limited, made_ready, results_of
from bench.process import Echo, Server
from bench.row import Goal, Row, Size

IN_FLIGHT = 64
GENERATORS = max(1, min(4, (os.cpu_count() or 2) - 1))


@dataclass(frozen=True, slots=True)
class _Round:
    rate: float
    cpu_us: float
    results: list[dict[str, Any]]


def rows(size: Size) -> Iterator[Row]:
    """Rounds of Tidegate and of the echo server in turn, so that both see the same machine."""
    with Server(window_delay="1h") as gate, Echo() as echo:
        pairs = [
            (_measure(gate, size, f"r{n}"), _measure(echo, size, f"r{n}"))
            for n in range(size.rounds)
        ]
        yield from _throughput(pairs)
        yield from _round_trips(gate, size)


def _throughput(pairs: list[tuple[_Round, _Round]]) -> Iterator[Row]:
    gate, echo = [a for a, _ in pairs], [b for _, b in pairs]
    at = f"{IN_FLIGHT} in flight"
    yield Row(f"unary adds, {at}", [r.rate for r in gate], "/s", note=_note(gate))
    yield Row(f"grpc.aio echo, {at}", [r.rate for r in echo], "/s", note=_note(echo))
    ratios = [a.rate / b.rate for a, b in pairs]
    yield Row("unary adds ÷ echo", ratios, "x", Goal(0.8, at_least=True))
    yield Row("processor per add, server and store", [r.cpu_us for r in gate], "µs")
    yield Row("processor per echo", [r.cpu_us for r in echo], "µs")


def _round_trips(gate: Server, size: Size) -> Iterator[Row]:
    for in_flight in (IN_FLIGHT, 1):
        before = gate.counters()
        seconds = size.seconds(2)
        results_of(_child(gate, in_flight, seconds, f"t{in_flight}"))
        after = gate.counters()
        spent = {name: after[name] - before[name] for name in after}
        added = spent["messages_added_total"]
        at = f"{in_flight} in flight"
        trips, commands = spent["store_round_trips_total"], spent["store_commands_total"]
        goal = Goal(1) if in_flight > 1 else None
        yield Row(f"store round trips per add, {at}", [trips / added], goal=goal)
        yield Row(f"store commands per add, {at}", [commands / added])


def _measure(server: Server | Echo, size: Size, name: str) -> _Round:
    children = [
        _child(server, IN_FLIGHT // GENERATORS, size.seconds(4), f"{name}.{n}")
        for n in range(GENERATORS)
    ]
    with made_ready(*children) as go:
        before = server.cpu_s()
        results = go()
        spent_s = server.cpu_s() - before
    cpu_us = spent_s / sum(r["count"] for r in results) * 1e6
    return _Round(sum(r["count"] / r["seconds"] for r in results), cpu_us, results)


def _child(server: Server | Echo, in_flight: int, seconds: float, name: str) -> Child:
    echo = isinstance(server, Echo)
    options: dict[str, Any] = {"target": server.target, "echo": echo, "in_flight": in_flight}
    return Child("producer", "closed", **options, seconds=seconds, name=name)


def _note(rounds: list[_Round]) -> str:
    return limited([result for one in rounds for result in one.results])
