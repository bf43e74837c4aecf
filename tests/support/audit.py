"""Looks at all keys of a store and says what contradicts the invariants of the protocol."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from redis import Redis

from tidegate_server.store.keys import Keys

LIVE = ("ctr", "n", "inst", "due", "lease", "idx", "c", "m", "a", "x", "dead")
GAUGES: tuple[str, ...] = ("open", "messages", "leased", "retrying")


def contradictions(client: "Redis", keys: Keys) -> list[str]:
    """One sentence for each contradiction; none in a store that only scripts have written to."""
    found: list[str] = []
    names = sorted(name.decode() for name in client.scan_iter(f"{keys.base}*", count=1000))
    cids = {name.split(":", 3)[3] for name in names if _kind(keys, name) in ("c", "m")}
    leases = _scores(client, keys.shared("lease"))
    instances = {cid.split("/", 1)[0] for cid in cids}
    dues = {i: _scores(client, keys.instance("due", i)) for i in instances}
    gauges = Counter[str](dict.fromkeys(GAUGES, 0))
    for cid in sorted(cids):
        found += _conversation(client, keys, cid, leases, dues, gauges)
    found += _indexes(client, keys, cids, leases, dues, names)
    found += _totals(client, keys, gauges)
    found += [
        f"{name} holds live data and expires"
        for name in names
        if _kind(keys, name) in LIVE and client.ttl(name) != -1
    ]
    return found


def _conversation(
    client: "Redis",
    keys: Keys,
    cid: str,
    leases: dict[str, float],
    dues: dict[str, dict[str, float]],
    gauges: Counter[str],
) -> Iterable[str]:
    meta: Any = client.hgetall(keys.of("c", cid))
    length: Any = client.llen(keys.of("m", cid))
    sealed = int(meta[b"batch"].split()[0]) if b"batch" in meta else 0
    leased, due = cid in leases, cid in dues[cid.split("/", 1)[0]]
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
    if sealed and client.hget(keys.shared("idx"), meta[b"id"].decode()) != cid.encode():
        yield f"{cid}'s batch is not to be found by its id"


def _indexes(
    client: "Redis",
    keys: Keys,
    cids: set[str],
    leases: dict[str, float],
    dues: dict[str, dict[str, float]],
    names: list[str],
) -> Iterable[str]:
    for cid in (leases.keys() | {c for due in dues.values() for c in due}) - cids:
        yield f"{cid} is in an index and has no messages"
    firsts = {i: min(due.values()) for i, due in dues.items() if due}
    if _scores(client, keys.shared("inst")) != firsts:
        yield f"the instances' places {_scores(client, keys.shared('inst'))} are not {firsts}"
    batches: Any = client.hlen(keys.shared("idx"))
    if batches != sum(1 for c in cids if client.hexists(keys.of("c", c), "batch")):
        yield "the index of batches has strays"
    for name in names:
        if _kind(keys, name) == "a" and not client.hexists(
            keys.of("c", name.split(":", 3)[3]), "id"
        ):
            yield f"{name} has attempts of no batch"


def _totals(client: "Redis", keys: Keys, gauges: Counter[str]) -> Iterable[str]:
    counted: Any = client.hmget(keys.shared("ctr"), *GAUGES)
    said = {gauge: int(value or 0) for gauge, value in zip(GAUGES, counted, strict=True)}
    if said != gauges:
        yield f"the gauges {said} are not {gauges}"


def _scores(client: "Redis", key: str) -> dict[str, float]:
    pairs: Any = client.zrange(key, 0, -1, withscores=True)
    return {member.decode(): score for member, score in pairs}


def _kind(keys: Keys, name: str) -> str:
    return name.removeprefix(keys.base).split(":", 1)[0]
