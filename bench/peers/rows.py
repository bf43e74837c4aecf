"""Tidegate against its peers: one store for all, rounds in turn, ratios within each round."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.child import Child, MeasureError, limited, results_of
from bench.lateness import measure_spread
from bench.peers import toolbox
from bench.peers.toolbox import LeftOut
from bench.process import Server, Store
from bench.row import Goal, Row, Size

IN_FLIGHT = 64
ENTRIES = 256
_SECONDS = 3.0
_LATE_COUNT, _LATE_FROM_S, _LATE_TILL_S = 5_000, 2.0, 6.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """One who takes messages: its name on the table, and its load of so many seconds."""

    name: str
    child: Callable[[float, str], Child]


def rows(size: Size) -> Iterator[Row]:
    """First what each takes in, then how late each hands out."""
    with Store() as store, Server(store_url=store.url, window_delay="1h") as gate:
        contestants, left_out = _present([*_ours(gate), *_theirs(store)], size)
        rounds = [
            {c.name: _rate(c, size, f"r{n}") for c in contestants} for n in range(size.rounds)
        ]
    yield from _rates(rounds, left_out)
    yield from _ratios(rounds)
    yield from _lateness(size)
    yield from _places(size)


def _ours(gate: Server) -> Iterator[Contestant]:
    def client(seconds: float, name: str) -> Child:
        given: dict[str, Any] = {"target": gate.target, "in_flight": IN_FLIGHT, "seconds": seconds}
        return Child("producer", "gathered", name=name, **given)

    def stream(seconds: float, name: str) -> Child:
        given: dict[str, Any] = {
            "target": gate.target,
            "entries": ENTRIES,
            "in_flight": 4,
            "seconds": seconds,
        }
        return Child("producer", "streamed", name=f"s{name}", **given)

    yield Contestant(f"Tidegate, client adds, {IN_FLIGHT} in flight", client)
    yield Contestant(f"Tidegate, {ENTRIES} a request", stream)


def _theirs(store: Store) -> Iterator[Contestant]:
    def job(command: Callable[[], Sequence[str]], name: str, **more: Any) -> Any:
        def child(seconds: float, run: str) -> Child:
            given: dict[str, Any] = more | {"socket": store.socket, "name": f"{name}-{run}"}
            return Child(
                "peer", name, command=command(), in_flight=IN_FLIGHT, seconds=seconds, **given
            )

        return child

    yield Contestant("BullMQ add", job(toolbox.bullmq, "add"))
    yield Contestant("BullMQ addBulk", job(toolbox.bullmq, "bulk", bulk=ENTRIES))
    yield Contestant("BullMQ debounce", job(toolbox.bullmq, "debounce"))
    yield Contestant("asynq, into groups", job(toolbox.asynq, "group"))
    for name in ("saq", "arq", "docket"):
        yield Contestant(f"{name} enqueue", job(toolbox.python_queues, name))


def _present(contestants: Sequence[Contestant], size: Size) -> tuple[list[Contestant], list[str]]:
    """Those that can be had here, each tried once; and why the others are not there."""
    found, left_out = list[Contestant](), list[str]()
    for contestant in contestants:
        try:
            _rate(contestant, Size(1, size.scale / 10), "try")
        except LeftOut as reason:
            left_out.append(str(reason))
        except MeasureError:
            left_out.append(f"{contestant.name} is left out: it fails, as it said above")
        else:
            found.append(contestant)
    return found, list(dict.fromkeys(left_out))


@dataclass(frozen=True, slots=True)
class _Round:
    rate: float
    result: dict[str, Any]


def _rate(contestant: Contestant, size: Size, name: str) -> _Round:
    (result,) = results_of(contestant.child(size.seconds(_SECONDS), name))
    return _Round(result["count"] / result["seconds"], result)


def _rates(rounds: list[dict[str, _Round]], left_out: Sequence[str]) -> Iterator[Row]:
    for name in rounds[0]:
        of_it = [found[name] for found in rounds]
        # A library is its own load generator: its processor time is what it costs its user.
        note = limited([one.result for one in of_it]) if name.startswith("Tidegate") else ""
        yield Row(name, [one.rate for one in of_it], "/s", note=note)
    for reason in left_out:
        yield Row(reason.partition(" is left")[0], [0.0], "/s", note=reason)


def _ratios(rounds: list[dict[str, _Round]]) -> Iterator[Row]:
    client, stream = list(rounds[0])[:2]
    for ours, theirs, goal in (
        (client, "BullMQ debounce", 2.0),
        (client, "BullMQ add", 1.2),
        (stream, "BullMQ debounce", 4.0),
    ):
        if theirs in rounds[0]:
            ratios = [found[ours].rate / found[theirs].rate for found in rounds]
            yield Row(f"{ours} ÷ {theirs}", ratios, "x", Goal(goal, at_least=True))


def _lateness(size: Size) -> Iterator[Row]:
    """The same number of buffers, delayed jobs and groups, 1,250 of them due each second."""
    rounds = min(size.rounds, 3)
    ours = [_ours_late(size) for _ in range(rounds)]
    yield Row("lateness p99, 1,250 buffers/s", ours, "ms", Goal(3))
    for name, job in (("BullMQ delayed jobs", _bullmq_late), ("asynq groups", _asynq_late)):
        try:
            theirs = [job(size) for _ in range(rounds)]
        except (LeftOut, MeasureError) as reason:
            yield Row(f"{name}, p99 of lateness", [0.0], "ms", note=str(reason))
            continue
        yield Row(f"{name}, p99 of lateness", theirs, "ms")
        goal = Goal(1 / 30) if job is _bullmq_late else None
        yield Row(f"lateness p99 ÷ that of {name}", [median(ours) / median(theirs)], "x", goal)


def _ours_late(size: Size) -> float:
    received, _ = measure_spread(size)
    return received["received"]["p99"]


def _bullmq_late(size: Size) -> float:
    with Store() as store:
        given: dict[str, Any] = {
            "socket": store.socket,
            "name": "late",
            "count": size.count(_LATE_COUNT),
        }
        ends: dict[str, Any] = {
            "first_s": size.seconds(_LATE_FROM_S),
            "last_s": size.seconds(_LATE_TILL_S),
        }
        command = toolbox.bullmq()
        return results_of(Child("peer", "lateness", command=command, **given, **ends))[0]["p99"]


def _asynq_late(size: Size) -> float:
    with Store() as store:
        given: dict[str, Any] = {
            "socket": store.socket,
            "name": "late",
            "count": size.count(_LATE_COUNT),
        }
        command = toolbox.asynq()
        return results_of(Child("peer", "lateness", command=command, **given, grace_s=2))[0]["p99"]


def _places(size: Size) -> Iterator[Row]:
    """What the 200th message of a buffer costs against the first, here and as JSON."""
    messages, buffers = 200, size.count(1_000)
    with Store() as store:
        given: dict[str, Any] = {"socket": store.socket, "messages": messages, "buffers": buffers}
        for name, module in (("Tidegate's script", "peers.scripted"), ("JSON", "peers.original")):
            results = [
                results_of(Child(module, "fill", **given, name=f"{module}-{n}"))[0]["took_us"]
                for n in range(min(size.rounds, 3))
            ]
            ratios = [median(took[-10:]) / median(took[:10]) for took in results]
            goal = Goal(1.1) if module == "peers.scripted" else None
            yield Row(f"{name}: adding the 200th message ÷ the 1st", ratios, "x", goal)
