"""From the buffer to the subscriber and back: add, claim, settle."""

from collections.abc import Sequence

from tidegate_server.core.model import Conversation, DeliveryChannel, NackAction, NewMessage
from tidegate_server.core.retry import backoffs
from tidegate_server.errors import StoreDamaged
from tidegate_server.logs import get_logger
from tidegate_server.store import answers, scripts
from tidegate_server.store.adds import AddGroup
from tidegate_server.store.base import AddResult, Claimed, Extended, Partition, Settled
from tidegate_server.store.codec import Corrupt
from tidegate_server.store.keys import cid_of
from tidegate_server.store.redis.runner import Runner

_log = get_logger("tidegate.store")


class Deliveries(Partition):
    """Add, claim, ack, nack, extend, expire."""

    runner: Runner
    _adds: AddGroup | None = None

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """As the base says. What is added while a round trip is under way shares the next one."""
        group, deadline = self._adds, self.runner.pipeline.deadline
        if group is None or not group.has_room(messages, deadline=deadline):
            group = self._group()
        try:
            return await group.join(messages)
        except StoreDamaged as error:
            # The script stopped half-way, perhaps at a conversation of somebody else.
            await self.runner.stumbled(error, {message.conversation for message in messages})
        return await self._group().join(messages)

    def _group(self) -> AddGroup:
        """A new group, which is sent at once or with what is under way."""
        group = AddGroup(
            self.runner.keys,
            clock=self.runner.now(),
            deduplication_ms=self.runner.rules.deduplication_ms,
            quota=self.runner.rules.quota,
            deadline=self.runner.pipeline.deadline,
        )
        self._adds = group
        self.runner.pipeline.send(group)
        return group

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
        answer = await self.runner.run_mended(
            scripts.CLAIM, conversation, token, lease_ms, int(channel), subscriber_id
        )
        if answer[1] != b"BATCH":
            return Claimed(None, answer[2] if answer[1] == b"EARLY" else None, answer[0])
        meta = answers.table(answer[2])
        self.runner.remember(meta[b"id"].decode(), conversation)
        try:
            return Claimed(answers.claimed(answer, conversation), None, answer[0])
        except Corrupt as error:
            return await self._bury(meta, error)

    async def _bury(self, meta: answers.Meta, error: Corrupt) -> Claimed:
        batch_id = meta[b"id"].decode()
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
        conversation = await self.runner.find(batch_id)
        rules = self.runner.rules
        action = "current" if only_if_current else "ack"
        answer = await self.runner.settle(
            scripts.ACK,
            batch_id,
            conversation,
            token,
            action,
            rules.retain_status_ms,
            rules.retain_processed_ms,
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
        conversation = await self.runner.find(batch_id)
        rules = self.runner.rules
        answer = await self.runner.settle(
            scripts.NACK,
            batch_id,
            conversation,
            token,
            action.name,
            rules.retain_status_ms,
            reason,
            message,
            retry_delay_ms,
            *backoffs(rules.retry, jitter=self.runner.jitter()),
        )
        return answers.settled(batch_id, conversation, answer)

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """As the base says."""
        conversation = await self.runner.find(batch_id)
        answer = await self.runner.settle(scripts.EXTEND, batch_id, conversation, token, lease_ms)
        return Extended(batch_id, conversation, answer[2], answer[0])

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        meta = self.runner.keys.of("c", cid_of(conversation))
        try:
            batch_id = (await self.runner.call("HGET", meta, "id") or b"").decode()
        except (StoreDamaged, UnicodeDecodeError):
            batch_id = ""
        if not batch_id:
            await self.runner.mend([conversation])
            return None
        rules = self.runner.rules
        answer = await self.runner.run_mended(
            scripts.EXPIRE,
            conversation,
            batch_id,
            rules.retry.max_expiries,
            rules.retain_status_ms,
            more_keys=self.runner.keys.settled(batch_id, conversation.instance),
        )
        if answer[1] == b"NONE":
            return None
        return answers.settled(batch_id, conversation, answer)
