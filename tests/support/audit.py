"""Looks at all keys of a store and says what contradicts the invariants of the protocol."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from redis import Redis

from tidegate_server.store.keys import Keys

LIVE = ("ctr", "n", "inst", "due", "lease", "idx", "c", "m", "a", "x", "dead")
GAUGES: tuple[str, ...] = ("open", "messages", "leased", "retrying")
READS = {
    **dict.fromkeys(("ctr", "c", "idx"), "hgetall"),
    **dict.fromkeys(("inst", "due", "lease"), "scores"),
    "m": "llen",
}


def contradictions(client: "Redis", keys: Keys) -> list[str]:
    """One sentence for each contradiction; none in a store that only scripts have written to."""
    return list(_Snapshot(client, keys).contradictions())


class _Snapshot:
    """What the live keys hold, read in one go: by kind, then by the rest of the name."""

    def __init__(self, client: "Redis", keys: Keys):
        self.kinds: dict[str, dict[str, Any]] = {}
        self.expiring: list[str] = []
        names = [name.decode() for name in client.scan_iter(f"{keys.base}*", count=1000)]
        live = [(name, *_parts(keys, name)) for name in sorted(names)]
        live = [entry for entry in live if entry[1] in LIVE]
        pipeline = client.pipeline(transaction=False)
        for name, kind, _ in live:
            pipeline.ttl(name)
            read = READS.get(kind)
            if read == "scores":
                pipeline.zrange(name, 0, -1, withscores=True)
            elif read:
                getattr(pipeline, read)(name)
            else:
                pipeline.exists(name)
        answers: list[Any] = pipeline.execute()
        for (name, kind, rest), ttl, value in zip(live, answers[::2], answers[1::2], strict=True):
            if ttl != -1:
                self.expiring.append(name)
            self.kinds.setdefault(kind, {})[rest] = value

    def contradictions(self) -> Iterator[str]:
        gauges = Counter[str](dict.fromkeys(GAUGES, 0))
        cids = sorted(self._all("c").keys() | self._all("m").keys())
        for cid in cids:
            yield from self._conversation(cid, gauges)
        yield from self._indexes(set(cids))
        counted = self._all("ctr").get("", {})
        said = {gauge: int(counted.get(gauge.encode(), 0)) for gauge in GAUGES}
        if said != gauges:
            yield f"the gauges {said} are not {gauges}"
        yield from (f"{name} holds live data and expires" for name in self.expiring)

    def _conversation(self, cid: str, gauges: Counter[str]) -> Iterator[str]:
        meta, length = self._all("c").get(cid, {}), self._all("m").get(cid, 0)
        sealed = int(meta[b"batch"].split()[0]) if b"batch" in meta else 0
        leased = cid in self._scores("lease")
        due = cid in self._scores("due", cid.split("/", 1)[0])
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


def _parts(keys: Keys, name: str) -> tuple[str, str]:
    kind, _, rest = name.removeprefix(keys.base).partition(":")
    return kind, rest
