"""How long one add takes at a steady rate, whatever the answers take."""

from collections.abc import Iterator

from bench.child import Child, limited, results_of
from bench.process import Server
from bench.row import Goal, Row, Size

RATE = 1_000


def rows(size: Size) -> Iterator[Row]:
    """An open loop: a slow answer holds up no later message, so none goes unseen."""
    with Server(window_delay="1h") as gate:
        results = [results_of(child(gate.target, size, f"r{n}"))[0] for n in range(size.rounds)]
    late = max(result["late_ms"]["p99"] for result in results)
    note = limited(results) or f"99 % were sent within {late:.1f} ms of their time"
    at = f"{RATE:,} a second"
    for name, goal in (("p50", None), ("p99", Goal(5)), ("max", None)):
        samples = [result["took_ms"][name] for result in results]
        yield Row(f"add, {name}, {at}", samples, "ms", goal, note)


def child(target: str, size: Size, name: str) -> Child:
    """The load of one round."""
    seconds = size.seconds(5)
    return Child("producer", "steady", target=target, rate=RATE, seconds=seconds, name=name)
