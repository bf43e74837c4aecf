"""What a move carries in one step: a conversation, or one batch in a final state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidegate_server.store import scripts
from tidegate_server.store.answers import table
from tidegate_server.store.keys import conversation_of
from tidegate_server.store.pipeline import Argument
from tidegate_server.store.redis.runner import Runner

OF_CONVERSATION, OF_BATCH = "cmadelx", "srt"
_READS = {
    **dict.fromkeys("cdes", "HGETALL"),
    **dict.fromkeys("malrt", "LRANGE"),
    "x": "SMEMBERS",
}
_WRITES = {"HGETALL": "HSET", "LRANGE": "RPUSH", "SMEMBERS": "SADD"}
_FOR_GOOD = -1


@dataclass(frozen=True, slots=True)
class Content:
    """One key: its kind, its elements as the store lists them, and the ms that it has to live."""

    kind: str
    elements: Sequence[bytes]
    ttl_ms: int | None


@dataclass(frozen=True, slots=True)
class Parcel:
    """The keys of a conversation or of a batch, and its places in the indexes, each if any."""

    name: str
    cid: str
    contents: Sequence[Content]
    due_ms: bytes = b""
    lease_ms: bytes = b""
    dead_ms: bytes = b""
    batch_id: str = ""
    gauges: Sequence[int] = field(default=(0, 0, 0, 0))


async def read(runner: Runner, name: str, kinds: str) -> Parcel | None:
    """What the partition has of a conversation or of a batch.

    None: nothing that anybody could ask for.
    """
    keys, of_batch = runner.keys, kinds == OF_BATCH
    index = keys.shared("dead")
    if not of_batch:
        index = keys.instance("due", conversation_of(name).instance)
    names = [index, keys.shared("lease"), *(keys.of(kind, name) for kind in kinds)]
    place, lease, found = await runner.run(
        scripts.PACK, names, name, *(_READS[kind] for kind in kinds)
    )
    there = {
        kind: Content(kind, elements, None if ttl_ms == _FOR_GOOD else max(1, ttl_ms))
        for kind, (ttl_ms, elements) in zip(kinds, found, strict=True)
        if elements
    }
    return _batch(name, there, place) if of_batch else _conversation(name, there, place, lease)


async def put(runner: Runner, parcel: Parcel) -> bool:
    """Put a parcel into its partition, in one step. False: it had come before."""
    keys, instance = runner.keys, conversation_of(parcel.cid).instance
    names = [
        keys.shared("ctr"),
        keys.shared("inst"),
        keys.instance("due", instance),
        keys.instance("n", instance),
        keys.shared("lease"),
        keys.shared("idx"),
        keys.shared("dead"),
        keys.instance("dead", instance),
        *(keys.of(one.kind, parcel.name) for one in parcel.contents),
    ]
    arguments: list[Argument] = [instance, parcel.cid, parcel.batch_id]
    arguments += [parcel.due_ms, parcel.lease_ms, parcel.dead_ms, *parcel.gauges]
    for one in parcel.contents:
        ttl: Argument = "" if one.ttl_ms is None else one.ttl_ms
        arguments += [_WRITES[_READS[one.kind]], ttl, len(one.elements), *one.elements]
    return await runner.run(scripts.ADOPT, names, *arguments) == 1


def _conversation(
    cid: str, there: Mapping[str, Content], due: bytes, lease: bytes
) -> Parcel | None:
    if not there:
        return None
    meta = table(there["c"].elements) if "c" in there else {}
    row = len(there["m"].elements) if "m" in there else 0
    sealed = int(meta[b"batch"].split()[0]) if b"id" in meta else 0
    waiting = max(0, row - sealed) if b"window" in meta else 0
    return Parcel(
        cid,
        cid,
        tuple(there.values()),
        due_ms=due,
        lease_ms=lease,
        batch_id=meta.get(b"id", b"").decode(),
        gauges=(int(b"window" in meta), waiting, int(bool(lease)), int(sealed > 0 and bool(due))),
    )


def _batch(batch_id: str, there: Mapping[str, Content], dead: bytes) -> Parcel | None:
    if "s" not in there:
        return None
    cid = table(there["s"].elements)[b"cid"].decode()
    contents = tuple(there.values())
    return Parcel(batch_id, cid, contents, dead_ms=dead, batch_id=batch_id if dead else "")
