"""The store on Redis or Valkey: one method per script, each one round trip that it may share."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection

from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy, backoffs
from tidegate_server.errors import LeaseLost, NotFound, TidegateError
from tidegate_server.logs import get_logger
from tidegate_server.store import answers, scripts
from tidegate_server.store.adds import AddGroup
from tidegate_server.store.base import (
    Added,
    BatchDetails,
    Claimed,
    Due,
    Extended,
    Flushed,
    Horizon,
    Notice,
    Settled,
    Stats,
    Status,
    Store,
)
from tidegate_server.store.codec import Corrupt
from tidegate_server.store.keys import Keys, cid_of, conversation_of, partition_of
from tidegate_server.store.notices import Notices
from tidegate_server.store.pipeline import Argument, Counters, Pipeline
from tidegate_server.store.scripts import Script

_LONGEST_AHEAD_MS = 3_600_000 * 2
_REMEMBERED_BATCHES = 10_000

_log = get_logger("tidegate.store")


class RedisStore(Store):
    """The store. `connect` makes a connection that is not open yet; `clock` is for tests."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        *,
        counters: Counters,
        prefix: str = "tg",
        timeout: float = 1.0,
        retry: RetryPolicy | None = None,
        default_policy: WindowPolicy | None = None,
        deduplication_ms: int = 3_600_000,
        retain_status_ms: int = 3_600_000,
        retain_processed_ms: int = 300_000,
        clock: Callable[[], int] | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        self.keys = Keys(prefix)
        self._pipeline = Pipeline(connect, timeout=timeout, counters=counters)
        self._notices = Notices(connect, self.keys.notices)
        self._retry = retry or RetryPolicy()
        self._default_policy = default_policy or WindowPolicy()
        self._deduplication_ms = deduplication_ms
        self._retain_status_ms = retain_status_ms
        self._retain_processed_ms = retain_processed_ms
        self._clock = clock
        self._jitter = jitter
        self._adds: AddGroup | None = None
        self._conversations: dict[str, Conversation] = {}
        self._scan_cursor: bytes = b"0"

    @property
    def away(self) -> str | None:
        """Why the store cannot be reached at the moment, None if it can."""
        return self._pipeline.away

    def start(self) -> None:
        """Begin to send."""
        self._pipeline.start()
        self._notices.start()

    async def stop(self) -> None:
        """Send what waits and close the connection."""
        await self._notices.stop()
        await self._pipeline.stop()

    async def add(self, messages: Sequence[NewMessage]) -> list[Added]:
        """As the base says. What is added while a round trip is under way shares the next one."""
        group = self._adds
        if group is None or not group.has_room(len(messages)):
            group = AddGroup(
                self.keys,
                clock=self._now(),
                deduplication_ms=self._deduplication_ms,
                deadline=self._pipeline.deadline,
            )
            self._adds = group
            self._pipeline.send(group)
        return await group.join(messages)

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        """As the base says. A batch that cannot be read becomes a dead letter (CORRUPT)."""
        answer = await self._run(
            scripts.CLAIM,
            self.keys.conversation(conversation),
            cid_of(conversation),
            conversation.instance,
            token,
            lease_ms,
            int(channel),
            subscriber_id,
        )
        if answer[1] != b"BATCH":
            return Claimed(None, answer[2] if answer[1] == b"EARLY" else None, answer[0])
        try:
            batch = answers.claimed(answer, conversation)
        except Corrupt as error:
            return await self._bury(conversation, answers.table(answer[2]), error)
        self._remember(batch)
        return Claimed(batch, None, answer[0])

    async def _bury(
        self, conversation: Conversation, meta: answers.Meta, error: Corrupt
    ) -> Claimed:
        batch_id = meta[b"id"].decode()
        self._conversations[batch_id] = conversation
        _log.error("a batch cannot be read; it is a dead letter now", batch=batch_id)
        settled = await self.nack(
            batch_id,
            meta[b"token"].decode(),
            NackAction.DEAD_LETTER,
            reason="CORRUPT",
            message=str(error),
        )
        return Claimed(None, settled.due_ms, settled.at_ms)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the base says."""
        conversation = await self._find(batch_id)
        answer = await self._settle(
            scripts.ACK,
            batch_id,
            conversation,
            cid_of(conversation),
            conversation.instance,
            batch_id,
            token,
            "current" if only_if_current else "ack",
            self._retain_status_ms,
            self._retain_processed_ms,
        )
        return answers.settled(batch_id, conversation, answer)

    async def nack(
        self,
        batch_id: str,
        token: str,
        action: NackAction,
        *,
        retry_delay_ms: int = 0,
        reason: str = "NACKED",
        message: str = "",
    ) -> Settled:
        """As the base says."""
        conversation = await self._find(batch_id)
        answer = await self._settle(
            scripts.NACK,
            batch_id,
            conversation,
            cid_of(conversation),
            conversation.instance,
            batch_id,
            token,
            action.name,
            self._retain_status_ms,
            reason,
            message,
            retry_delay_ms,
            *backoffs(self._retry, jitter=self._jitter()),
        )
        return answers.settled(batch_id, conversation, answer)

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """As the base says."""
        conversation = await self._find(batch_id)
        answer = await self._settle(
            scripts.EXTEND, batch_id, conversation, cid_of(conversation), batch_id, token, lease_ms
        )
        return Extended(batch_id, conversation, answer[2], answer[0])

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        keys = self.keys.conversation(conversation)
        found = await self._pipeline.call("HGET", self.keys.of("c", cid_of(conversation)), "id")
        batch_id = (found or b"").decode()
        answer = await self._run(
            scripts.EXPIRE,
            [*keys, *self.keys.settled(batch_id, conversation.instance)],
            cid_of(conversation),
            conversation.instance,
            batch_id,
            self._retry.max_expiries,
            self._retain_status_ms,
        )
        if answer[1] == b"NONE":
            return None
        return answers.settled(batch_id, conversation, answer)

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        now_ms, was_open, window, rest, in_flight = await self._run(
            scripts.FLUSH,
            self.keys.conversation(conversation),
            cid_of(conversation),
            conversation.instance,
        )
        info = answers.buffer(window, rest, now_ms)
        due_ms = info.flush_at_ms if info and not in_flight else None
        return Flushed(was_open == 1, info, now_ms, due_ms)

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        now_ms, flat, lease, due, newest, _, _ = await self._state(conversation)
        meta = answers.table(flat)
        current = answers.unsettled(
            meta, conversation, leased=lease != b"", due_ms=answers.optional(due)
        )
        waiting = answers.buffer(meta.get(b"window", b""), meta.get(b"buffer", b""), now_ms)
        last = await self._past(newest.decode()) if newest else None
        return Status(waiting, current, last)

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says."""
        keys = [self.keys.shared("inst"), self.keys.shared("lease")]
        now_ms, instances, expired, later = await self._run(scripts.HORIZON, keys, limit)
        return Horizon(
            now_ms,
            tuple(name.decode() for name in instances),
            tuple(map(conversation_of, expired)),
            answers.optional(later),
        )

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says."""
        flat = await self._pipeline.call(
            "ZRANGE", self.keys.instance("due", instance), 0, limit - 1, "WITHSCORES"
        )
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [Due(conversation_of(cid), int(float(score))) for cid, score in pairs]

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        one = instance is not None
        gauges = self.keys.instance("n", instance) if one else self.keys.shared("ctr")
        dead = self.keys.instance("dead", instance) if one else self.keys.shared("dead")
        first = self.keys.instance("due", instance) if one else self.keys.shared("inst")
        open_, messages, leased, retrying = await self._pipeline.call(
            "HMGET", gauges, "open", "messages", "leased", "retrying"
        )
        soonest = await self._pipeline.call("ZRANGE", first, 0, 0, "WITHSCORES")
        seconds, micros = await self._pipeline.call("TIME")
        now_ms = self._clock() if self._clock else int(seconds) * 1000 + int(micros) // 1000
        due_ms = int(float(soonest[1])) if soonest else now_ms
        return Stats(
            open_buffers=int(open_ or 0),
            buffered_messages=int(messages or 0),
            delivering_batches=int(leased or 0),
            retrying_batches=int(retrying or 0),
            dead_letters=await self._pipeline.call("ZCARD", dead),
            oldest_due_age_ms=max(0, now_ms - due_ms),
        )

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        conversation = await self._find(batch_id)
        _, flat, lease, due, _, attempts, elements = await self._state(conversation, messages=True)
        meta = answers.table(flat)
        if meta.get(b"id", b"").decode() == batch_id:
            info = answers.unsettled(
                meta, conversation, leased=lease != b"", due_ms=answers.optional(due)
            )
        else:
            info = await self._past(batch_id)
            elements = await self._pipeline.call("LRANGE", self.keys.of("r", batch_id), 0, -1)
            attempts = await self._pipeline.call("LRANGE", self.keys.of("t", batch_id), 0, -1)
        if info is None:
            raise NotFound("batch", batch_id)
        return BatchDetails(info, answers.readable(elements), tuple(map(answers.attempt, attempts)))

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        key = self.keys.shared("dead")
        if instance is not None:
            key = self.keys.instance("dead", instance)
        newest = str(before[0]) if before else "+inf"
        infos: list[BatchInfo] = []
        offset = 0
        while len(infos) < limit:
            ids = await self._pipeline.call(
                "ZREVRANGEBYSCORE", key, newest, "-inf", "LIMIT", offset, limit
            )
            if not ids:
                break
            offset += len(ids)
            for batch_id in map(bytes.decode, ids):
                info = await self._past(batch_id)
                if info and (not before or (info.settled_at_ms or 0, batch_id) < before):
                    infos.append(info)
        return infos[:limit]

    async def reconcile(self, *, limit: int) -> int:
        """As the base says. Goes on where the last call stopped."""
        self._scan_cursor, found = await self._pipeline.call(
            "SCAN", self._scan_cursor, "MATCH", self.keys.scan_pattern(), "COUNT", limit
        )
        repairs = 0
        for cid in {self.keys.cid_in(key) for key in found}:
            conversation = conversation_of(cid)
            repairs += await self._run(
                scripts.RECONCILE,
                self.keys.conversation(conversation),
                cid,
                conversation.instance,
                answers.policy_line(self._default_policy),
                _LONGEST_AHEAD_MS,
            )
        return repairs

    async def tell(self, notices: Sequence[Notice]) -> None:
        """As the base says."""
        with suppress(TidegateError):
            await self._pipeline.call("PUBLISH", self.keys.notices, self._notices.pack(notices))

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """As the base says."""
        self._notices.handlers.append(handler)

    def _now(self) -> Argument:
        return "" if self._clock is None else self._clock()

    async def _run(self, script: Script, keys: Sequence[str], *args: Argument) -> Any:
        return await self._pipeline.call(
            "EVALSHA", script.sha, len(keys), *keys, self._now(), *args
        )

    async def _settle(
        self, script: Script, batch_id: str, conversation: Conversation, *args: Argument
    ) -> Any:
        """The answer of a script that needs the newest token.

        Raises:
            NotFound: No such batch, or forgotten.
            LeaseLost: Another claim or another settlement came first.
        """
        keys = [
            *self.keys.conversation(conversation),
            *self.keys.settled(batch_id, conversation.instance),
        ]
        answer = await self._run(script, keys, *args)
        if answer[1] == b"UNKNOWN":
            raise NotFound("batch", batch_id)
        if answer[1] == b"LOST":
            raise LeaseLost(f"batch {batch_id} was given out again, or settled otherwise")
        return answer

    async def _state(self, conversation: Conversation, *, messages: bool = False) -> Any:
        keys = self.keys.conversation(conversation)
        return await self._run(scripts.STATUS, keys, cid_of(conversation), int(messages))

    async def _past(self, batch_id: str) -> BatchInfo | None:
        flat = await self._pipeline.call("HGETALL", self.keys.of("s", batch_id))
        if not flat:
            return None
        status = answers.table(flat)
        return answers.past(batch_id, conversation_of(status[b"cid"]), status)

    async def _find(self, batch_id: str) -> Conversation:
        """The conversation of a batch: remembered from its claim here, or asked for."""
        known = self._conversations.get(batch_id)
        if known:
            return known
        if partition_of(batch_id) != self.keys.partition:
            raise NotFound("batch", batch_id)
        cid = await self._pipeline.call("HGET", self.keys.shared("idx"), batch_id)
        cid = cid or await self._pipeline.call("HGET", self.keys.of("s", batch_id), "cid")
        if not cid:
            raise NotFound("batch", batch_id)
        return conversation_of(cid)

    def _remember(self, batch: Batch) -> None:
        """Know the newest batches' conversations, so that settling them takes one round trip."""
        self._conversations[batch.info.batch_id] = batch.info.conversation
        if len(self._conversations) > _REMEMBERED_BATCHES:
            del self._conversations[next(iter(self._conversations))]
