"""Looks at all keys of a store and says what contradicts the invariants of the protocol."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from redis import Redis

from tidegate_server.store.keys import Keys

LIVE = ("ctr", "n", "inst", "due", "lease", "idx", "c", "m", "a", "x", "dead")
IDS = ("d", "e")
GAUGES: tuple[str, ...] = ("open", "messages", "leased", "retrying")
READS = {
    **dict.fromkeys(("ctr", "n", "c", "idx", "d", "e"), "hgetall"),
    **dict.fromkeys(("inst", "due", "lease"), "scores"),
    "m": "llen",
}


def contradictions(
    client: "Redis", keys: Keys, *, deduplication_ms: int | None = None
) -> list[str]:
    """One sentence for each contradiction; none in a store that only scripts have written to.

    With a de-duplication time also for keys of ids that could be gone too early. That is for
    stores whose clock is a test's, in which keys have about as long to live as they were told.
    """
    snapshot = _Snapshot(client, keys)
    found = list(snapshot.contradictions())
    return found + list(snapshot.forgetful(deduplication_ms)) if deduplication_ms else found


class _Snapshot:
    """What the live keys hold, read in one go: by kind, then by the rest of the name."""

    def __init__(self, client: "Redis", keys: Keys):
        self.kinds: dict[str, dict[str, Any]] = {}
        self.expiring: list[str] = []
        self.left_ms: dict[str, int] = {}
        names = [name.decode() for name in client.scan_iter(f"{keys.base}*", count=1000)]
        live = [(name, *_parts(keys, name)) for name in sorted(names)]
        live = [entry for entry in live if entry[1] in (*LIVE, *IDS)]
        pipeline = client.pipeline(transaction=False)
        for name, kind, _ in live:
            pipeline.pttl(name)
            read = READS.get(kind)
            if read == "scores":
                pipeline.zrange(name, 0, -1, withscores=True)
            elif read:
                getattr(pipeline, read)(name)
            else:
                pipeline.exists(name)
        answers: list[Any] = pipeline.execute()
        for (name, kind, rest), left_ms, value in zip(
            live, answers[::2], answers[1::2], strict=True
        ):
            if kind in IDS:
                self.left_ms[name] = left_ms
            elif left_ms != -1:
                self.expiring.append(name)
            self.kinds.setdefault(kind, {})[rest] = value

    def contradictions(self) -> Iterator[str]:
        gauges = {instance: Counter[str]() for instance in self._all("n")}
        cids = sorted(self._all("c").keys() | self._all("m").keys())
        for cid in cids:
            yield from self._conversation(cid, gauges.setdefault(_instance(cid), Counter()))
        yield from self._indexes(set(cids))
        for instance, counted in gauges.items():
            yield from _differences(instance, self._all("n").get(instance, {}), counted)
        everywhere = sum(gauges.values(), Counter[str]())
        yield from _differences("the store", self._all("ctr").get("", {}), everywhere)
        yield from (f"{name} holds live data and expires" for name in self.expiring)

    def forgetful(self, deduplication_ms: int) -> Iterator[str]:
        """A generation takes no id after its end, and expires as long after it as an id counts."""
        for kind in IDS:
            for cid, entries in self._all(kind).items():
                ends_ms = int(entries[b""].split()[0])
                if any(int(e.split()[1]) >= ends_ms for i, e in entries.items() if i):
                    yield f"{cid} takes ids after the end of their generation"
        for name, left_ms in self.left_ms.items():
            if not 1.5 * deduplication_ms < left_ms <= 2 * deduplication_ms:
                yield f"{name} lives for {left_ms} ms more"

    def _conversation(self, cid: str, gauges: Counter[str]) -> Iterator[str]:
        meta, length = self._all("c").get(cid, {}), self._all("m").get(cid, 0)
        sealed = int(meta[b"batch"].split()[0]) if b"batch" in meta else 0
        leased = cid in self._scores("lease")
        due_ms = self._scores("due", _instance(cid)).get(cid)
        due = due_ms is not None
        gauges["messages"] += length - sealed
        gauges["open"] += length > sealed
        gauges["leased"] += leased
        gauges["retrying"] += bool(sealed) and due
        if leased == due:
            yield f"{cid} is in {'both indexes' if due else 'neither index'}"
        if leased and not sealed:
            yield f"{cid} has a lease and no batch"
        if (length > sealed) != (b"window" in meta) or (length > sealed) != (b"buffer" in meta):
            yield f"{cid} has {length} messages, {sealed} sealed, and fields {sorted(meta)}"
        elif length > sealed and int(meta[b"buffer"].split()[2]) != length - sealed:
            yield f"{cid} counts {meta[b'buffer']} and holds {length - sealed}"
        elif length > sealed == 0 and int(meta[b"window"].split()[7]) != due_ms:
            yield f"{cid} is due at {due_ms} and has the window {meta[b'window']}"
        if sealed and self._all("idx")[""].get(meta[b"id"]) != cid.encode():
            yield f"{cid}'s batch is not to be found by its id"

    def _indexes(self, cids: set[str]) -> Iterator[str]:
        dues = {instance: self._scores("due", instance) for instance in self._all("due")}
        placed = self._scores("lease").keys() | {cid for due in dues.values() for cid in due}
        for cid in placed - cids:
            yield f"{cid} is in an index and has no messages"
        firsts = {instance: min(due.values()) for instance, due in dues.items() if due}
        if self._scores("inst") != firsts:
            yield f"the instances' places {self._scores('inst')} are not {firsts}"
        batches = sum(1 for meta in self._all("c").values() if b"batch" in meta)
        if len(self._all("idx").get("", {})) != batches:
            yield "the index of batches has strays"
        for cid in self._all("a"):
            if b"id" not in self._all("c").get(cid, {}):
                yield f"{cid} has attempts of no batch"

    def _all(self, kind: str) -> dict[str, Any]:
        return self.kinds.get(kind, {})

    def _scores(self, kind: str, rest: str = "") -> dict[str, float]:
        return {member.decode(): score for member, score in self._all(kind).get(rest, ())}


def _instance(cid: str) -> str:
    return cid.split("/", 1)[0]


def _differences(whose: str, said: dict[bytes, bytes], counted: Counter[str]) -> Iterator[str]:
    gauges = {gauge: int(said.get(gauge.encode(), 0)) for gauge in GAUGES}
    if gauges != {gauge: counted[gauge] for gauge in GAUGES}:
        yield f"the gauges of {whose}, {gauges}, are not {counted}"


def _parts(keys: Keys, name: str) -> tuple[str, str]:
    kind, _, rest = name.removeprefix(keys.base).partition(":")
    return kind, rest
