"""What a move carries in one step: a conversation, or one batch in a final state."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate_server.store import scripts
from tidegate_server.store.answers import table
from tidegate_server.store.keys import conversation_of
from tidegate_server.store.pipeline import Argument
from tidegate_server.store.redis.runner import Runner

OF_CONVERSATION, OF_BATCH = "cmadelx", "srt"
_READS = {
    **dict.fromkeys("cdes", ("HGETALL",)),
    **dict.fromkeys("malrt", ("LRANGE", 0, -1)),
    "x": ("SMEMBERS",),
}
_WRITES = {"HGETALL": "HSET", "LRANGE": "RPUSH", "SMEMBERS": "SADD"}
_FOR_GOOD, _GONE = -1, -2


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

    @property
    def messages(self) -> int:
        """The messages in it that wait, are under way, or are kept after the end."""
        return sum(len(one.elements) for one in self.contents if one.kind in "mr")


async def read(runner: Runner, name: str, kinds: str) -> Parcel | None:
    """What the partition has of a conversation or of a batch.

    None: nothing that anybody could ask for. The store must be at rest.
    """
    contents = await asyncio.gather(*(_content(runner, kind, name) for kind in kinds))
    there = {one.kind: one for one in contents if one}
    if not there:
        return None
    if kinds == OF_BATCH:
        return await _batch(runner, name, there)
    return await _conversation(runner, name, there)


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
        arguments += [_WRITES[_READS[one.kind][0]], ttl, len(one.elements), *one.elements]
    return await runner.run(scripts.ADOPT, names, *arguments) == 1


async def _content(runner: Runner, kind: str, name: str) -> Content | None:
    key, (command, *rest) = runner.keys.of(kind, name), _READS[kind]
    ttl_ms, elements = await asyncio.gather(
        runner.call("PTTL", key), runner.call(command, key, *rest)
    )
    if ttl_ms == _GONE or not elements:
        return None
    return Content(kind, elements, None if ttl_ms == _FOR_GOOD else max(1, ttl_ms))


async def _conversation(runner: Runner, cid: str, there: dict[str, Content]) -> Parcel:
    keys = runner.keys
    due, lease = await asyncio.gather(
        runner.call("ZSCORE", keys.instance("due", conversation_of(cid).instance), cid),
        runner.call("ZSCORE", keys.shared("lease"), cid),
    )
    meta = table(there["c"].elements) if "c" in there else {}
    row = len(there["m"].elements) if "m" in there else 0
    sealed = int(meta[b"batch"].split()[0]) if b"id" in meta else 0
    waiting = max(0, row - sealed) if b"window" in meta else 0
    gauges = (int(b"window" in meta), waiting, int(bool(lease)), int(sealed > 0 and bool(due)))
    return Parcel(
        cid,
        cid,
        tuple(there.values()),
        due_ms=due or b"",
        lease_ms=lease or b"",
        batch_id=meta.get(b"id", b"").decode(),
        gauges=gauges,
    )


async def _batch(runner: Runner, batch_id: str, there: dict[str, Content]) -> Parcel | None:
    if "s" not in there:
        return None
    cid = table(there["s"].elements)[b"cid"].decode()
    dead = await runner.call("ZSCORE", runner.keys.shared("dead"), batch_id)
    contents = tuple(there.values())
    return Parcel(batch_id, cid, contents, dead_ms=dead or b"", batch_id=batch_id if dead else "")
