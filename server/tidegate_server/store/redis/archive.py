"""What an operator sees and does: status, listings, dead letters, erasure, repairs."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from heapq import merge
from itertools import islice

from tidegate_server.core.model import BatchInfo, BatchState, Conversation, DeliveryAttempt
from tidegate_server.errors import NotFound
from tidegate_server.logs import get_logger
from tidegate_server.store import answers, scripts
from tidegate_server.store.base import (
    BatchDetails,
    Due,
    Erased,
    Horizon,
    Listed,
    Partition,
    Requeued,
    Stats,
    Status,
    Tracked,
)
from tidegate_server.store.keys import cid_of, conversation_of
from tidegate_server.store.redis.runner import Runner

_FARTHEST = 1 << 53
_GAUGES = ("open", "messages", "leased", "retrying")

Place = tuple[int, str]

_log = get_logger("tidegate.store")


class Archive(Partition):
    """Status, track, listings, batches, dead letters, erase, stats, reconcile."""

    runner: Runner
    _cursor: bytes = b"0"
    _reconciled = 0

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        state = await self.runner.state(conversation)
        last = await self.runner.past(state.past[0].batch_id) if state.past else None
        return Status(state.buffer, state.current, last)

    async def track(self, conversation: Conversation, message_id: str) -> Tracked:
        """As the base says."""
        newer, older = self.runner.keys.seen(conversation)
        state, entry, old_entry = await asyncio.gather(
            self.runner.state(conversation, messages=True),
            self.runner.call("HGET", newer, message_id),
            self.runner.call("HGET", older, message_id),
        )
        words = (entry or old_entry or b"").split()
        if not words:
            raise NotFound("message", message_id)
        known = sequence, _, _ = int(words[0]), int(words[1]), int(words[2])
        if len(words) > 3:
            return Tracked(*known, None, None)
        current = state.current
        if current and current.first_sequence <= sequence <= current.last_sequence:
            return Tracked(*known, None, current, state.attempts)
        for past in state.past:
            if past.first <= sequence <= past.last and past.state is not BatchState.REBUFFERED:
                info = await self.runner.past(past.batch_id)
                return Tracked(*known, None, info, await self._attempts(past.batch_id))
        return Tracked(*known, state.buffer, None)

    async def conversations(
        self, instance: str | None, *, limit: int, after: Place | None = None
    ) -> list[Listed]:
        """As the base says."""
        return await self.listed(await self.places(instance, limit=limit, after=after))

    async def listed(self, places: Sequence[Place]) -> list[Listed]:
        """The conversations of these places, without those that have moved on since."""
        states = await asyncio.gather(
            *(self.runner.state(conversation_of(cid)) for _, cid in places)
        )
        return [
            Listed(conversation_of(cid), at_ms, state.buffer, state.current)
            for (at_ms, cid), state in zip(places, states, strict=True)
            if state.buffer or state.current
        ]

    async def places(
        self, instance: str | None, *, limit: int, after: Place | None = None
    ) -> list[Place]:
        """The next places of all indexes. An instance is asked only while it can still matter."""
        keys, after = self.runner.keys, after or (-1, "")
        leases = await self._after(keys.shared("lease"), limit, after, instance)
        if instance is not None:
            dues = await self._after(keys.instance("due", instance), limit, after)
            return list(islice(merge(leases, dues), limit))
        found = leases
        first_dues = await self.runner.call("ZRANGE", keys.shared("inst"), 0, -1, "WITHSCORES")
        for name, first_ms in _pairs(first_dues):
            if len(found) >= limit and found[limit - 1][0] < first_ms:
                break
            dues = await self._after(keys.instance("due", name), limit, after)
            found = list(islice(merge(found, dues), limit))
        return found

    async def _after(
        self, key: str, limit: int, after: Place, instance: str | None = None
    ) -> list[Place]:
        """The next members of a sorted set, those of the instance if one is given."""
        found: list[Place] = []
        offset = 0
        while len(found) < limit:
            flat = await self.runner.call(
                *("ZRANGEBYSCORE", key, after[0], "+inf", "WITHSCORES", "LIMIT", offset, limit)
            )
            for cid, at_ms in _pairs(flat):
                mine = instance is None or conversation_of(cid).instance == instance
                if mine and (at_ms, cid) > after:
                    found.append((at_ms, cid))
            if len(flat) < 2 * limit:
                break
            offset += limit
        return found[:limit]

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says."""
        keys = [self.runner.keys.shared("inst"), self.runner.keys.shared("lease")]
        now_ms, instances, over, later = await self.runner.run(scripts.HORIZON, keys, limit)
        expired = await self._weeded(keys[1], over)
        return Horizon(
            now_ms,
            tuple(name.decode(errors="replace") for name in instances),
            tuple(map(conversation_of, expired)),
            answers.optional(later),
        )

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says."""
        key = self.runner.keys.instance("due", instance)
        flat = await self.runner.call("ZRANGE", key, 0, limit - 1, "WITHSCORES")
        if len(await self._weeded(key, flat[::2], instance)) < len(flat) // 2:
            flat = await self.runner.call("ZRANGE", key, 0, limit - 1, "WITHSCORES")
        return [Due(conversation_of(cid), at_ms) for cid, at_ms in _pairs(flat)]

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        keys, call = self.runner.keys, self.runner.call
        one = instance is not None
        gauges = keys.instance("n", instance) if one else keys.shared("ctr")
        dead = keys.instance("dead", instance) if one else keys.shared("dead")
        first = keys.instance("due", instance) if one else keys.shared("inst")
        counted, letters, soonest, (seconds, micros) = await asyncio.gather(
            call("HMGET", gauges, *_GAUGES),
            call("ZCARD", dead),
            call("ZRANGE", first, 0, 0, "WITHSCORES"),
            call("TIME"),
        )
        clock = self.runner.clock
        now_ms = clock() if clock else int(seconds) * 1000 + int(micros) // 1000
        due_ms = int(float(soonest[1])) if soonest else now_ms
        open_buffers, messages, leased, retrying = (int(value or 0) for value in counted)
        return Stats(
            open_buffers=open_buffers,
            buffered_messages=messages,
            delivering_batches=leased,
            retrying_batches=retrying,
            dead_letters=letters,
            oldest_due_age_ms=max(0, now_ms - due_ms),
        )

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        state = await self.runner.state(await self.runner.find(batch_id), messages=True)
        if state.current and state.current.batch_id == batch_id:
            return BatchDetails(state.current, answers.readable(state.elements), state.attempts)
        info, elements, attempts = await asyncio.gather(
            self.runner.past(batch_id),
            self.runner.call("LRANGE", self.runner.keys.of("r", batch_id), 0, -1),
            self._attempts(batch_id),
        )
        if info is None:
            raise NotFound("batch", batch_id)
        return BatchDetails(info, answers.readable(elements), attempts)

    async def find(self, batch_id: str) -> Conversation:
        """As the base says."""
        return await self.runner.find(batch_id)

    async def _attempts(self, batch_id: str) -> tuple[DeliveryAttempt, ...]:
        elements = await self.runner.call("LRANGE", self.runner.keys.of("t", batch_id), 0, -1)
        return answers.legible(elements)

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: Place | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        keys = self.runner.keys
        key = keys.shared("dead") if instance is None else keys.instance("dead", instance)
        newest = str(before[0]) if before else "+inf"
        infos: list[BatchInfo] = []
        offset = 0
        while len(infos) < limit:
            ids = await self.runner.call(
                "ZREVRANGEBYSCORE", key, newest, "-inf", "LIMIT", offset, limit
            )
            if not ids:
                break
            offset += len(ids)
            found = await asyncio.gather(*(self.runner.past(name.decode()) for name in ids))
            infos += [i for i in found if i and (not before or _letter_place(i) < before)]
        return infos[:limit]

    async def requeue(self, batch_id: str) -> Requeued:
        """As the base says."""
        try:
            conversation = await self.runner.find(batch_id)
        except NotFound:
            return Requeued(False)
        keys = self.runner.keys
        more = [*keys.settled(batch_id, conversation.instance), *keys.seen(conversation)]
        keep_ms = self.runner.rules.deduplication_ms
        now_ms, applied, window, rest, in_front = await self.runner.run_on(
            scripts.REQUEUE, conversation, batch_id, keep_ms, more_keys=more
        )
        if not applied:
            return Requeued(False)
        info = answers.buffer(window, rest, now_ms)
        due_ms = info.flush_at_ms if info and not in_front else None
        return Requeued(True, conversation, now_ms, due_ms)

    async def delete(self, batch_id: str) -> bool:
        """As the base says."""
        try:
            conversation = await self.runner.find(batch_id)
        except NotFound:
            return False
        keys = self.runner.keys
        all_keys = keys.conversation(conversation) + keys.settled(batch_id, conversation.instance)
        deleted = await self.runner.run(
            scripts.DELETE, all_keys, batch_id, self.runner.rules.retain_status_ms
        )
        return deleted == 1

    async def erase(self, conversation: Conversation) -> Erased:
        """As the base says."""
        keys = self.runner.keys
        shared = [keys.shared("dead"), keys.instance("dead", conversation.instance)]
        while True:
            state = await self.runner.state(conversation)
            letters = await self.runner.call("SMEMBERS", keys.of("x", cid_of(conversation)))
            ids = {past.batch_id for past in state.past} | {name.decode() for name in letters}
            if state.current:
                ids.add(state.current.batch_id)
            known = sorted(ids)
            batches = [keys.of(kind, name) for name in known for kind in "srt"]
            more = [*keys.seen(conversation), *shared, *batches]
            answer = await self.runner.run_on(scripts.ERASE, conversation, *known, more_keys=more)
            if answer[0] == b"ERASED":
                return Erased(answer[1], answer[2].decode() or None)

    async def reconcile(self, *, limit: int) -> int:
        """As the base says. Goes on where the last call stopped."""
        keys = self.runner.keys
        self._cursor, found = await self.runner.call(
            "SCAN", self._cursor, "MATCH", keys.scan_pattern(), "COUNT", limit
        )
        cids = {key.removeprefix(keys.base.encode())[2:] for key in found}
        repairs = await self.runner.mend(conversation_of(cid) for cid in cids if _is_cid(cid))
        repaired, self.runner.repaired = self.runner.repaired, 0
        self._reconciled += self._cursor == b"0"
        return repairs + repaired

    @property
    def reconciled(self) -> int:
        """As the base says."""
        return self._reconciled

    async def _weeded(
        self, key: str, cids: list[bytes], instance: str | None = None
    ) -> list[bytes]:
        """The members of an index; what names no conversation there is taken out for good."""
        strays = [cid for cid in cids if not _is_cid(cid, instance)]
        if strays:
            _log.error("an index of the store had members that name nothing", members=len(strays))
            await self.runner.call("ZREM", key, *strays)
        return [cid for cid in cids if cid not in strays]


def _is_cid(member: bytes, instance: str | None = None) -> bool:
    """Whether it is the name of a conversation, of the instance if one is given."""
    try:
        conversation = conversation_of(member)
    except UnicodeDecodeError:
        return False
    return cid_of(conversation).encode() == member and instance in (None, conversation.instance)


def _pairs(flat: list[bytes]) -> Iterable[tuple[str, int]]:
    """Members and scores of a sorted set."""
    for member, score in zip(flat[::2], flat[1::2], strict=True):
        with suppress(UnicodeDecodeError):
            yield member.decode(), int(min(max(float(score), 0), _FARTHEST))


def _letter_place(info: BatchInfo) -> Place:
    return info.settled_at_ms or 0, info.batch_id
