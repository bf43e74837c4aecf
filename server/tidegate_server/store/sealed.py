"""A store behind seals: what goes in is sealed, what comes out is opened, nothing else changes."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from tidegate_server.core.model import (
    Batch,
    BatchInfo,
    Conversation,
    DeliveryAttempt,
    DeliveryChannel,
    NackAction,
    NewMessage,
    StoredMessage,
)
from tidegate_server.errors import AlreadySealed, NotFound
from tidegate_server.logs import get_logger
from tidegate_server.store.base import (
    AddResult,
    BatchDetails,
    Changed,
    Claimed,
    Due,
    Erased,
    Extended,
    Flushed,
    Held,
    Horizon,
    Listed,
    Requeued,
    Settled,
    Stats,
    Status,
    Store,
    Tracked,
)
from tidegate_server.store.codec import Corrupt
from tidegate_server.store.keys import cid_of, conversation_of
from tidegate_server.store.sealing import Seals
from tidegate_server.store.signals import LiveEvent, Notice

_log = get_logger("tidegate.store")


class SealedStore(Store):
    """The inner store, whose users see everything and whose files give nothing away.

    Seals the bodies of messages and the texts of errors, or the names of conversations and the ids
    of messages, or both. Instances, times, sizes and counts stay in clear.
    """

    def __init__(self, inner: Store, seals: Seals):
        self._inner = inner
        self._bodies = seals.bodies
        self._names = seals.names

    async def tell(self, notices: Sequence[Notice]) -> None:
        """As the base says."""
        await self._inner.tell(
            [replace(n, conversation=self._hidden(n.conversation)) for n in notices]
        )

    def listen(self, handler: Callable[[Notice], None]) -> None:
        """As the base says."""
        self._inner.listen(
            lambda notice: handler(replace(notice, conversation=self._shown(notice.conversation)))
        )

    async def publish(self, events: Sequence[LiveEvent]) -> None:
        """As the base says."""
        await self._inner.publish([self._hidden_event(event) for event in events])

    def watch(self, handler: Callable[[LiveEvent], None] | None) -> None:
        """As the base says."""
        if handler is None:
            self._inner.watch(None)
        else:
            self._inner.watch(lambda event: handler(self._shown_event(event)))

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """As the base says."""
        return await self._inner.add(
            [
                replace(
                    message,
                    conversation=self._hidden(message.conversation),
                    id=self._hidden_id(message.conversation, message.id),
                    body=self._sealed(message.body, message.conversation, message.id),
                )
                for message in messages
            ]
        )

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        """As the base says. A batch that cannot be opened becomes a dead letter (CORRUPT)."""
        claimed = await self._inner.claim(
            self._hidden(conversation),
            token=token,
            lease_ms=lease_ms,
            subscriber_id=subscriber_id,
            channel=channel,
        )
        if claimed.batch is None:
            return claimed
        try:
            return replace(claimed, batch=self._batch(claimed.batch))
        except Corrupt as error:
            return await self._bury(claimed.batch, error)

    async def _bury(self, batch: Batch, error: Corrupt) -> Claimed:
        batch_id = batch.info.batch_id
        _log.error("a batch cannot be decrypted; it is a dead letter now", batch=batch_id)
        settled = await self.nack(
            batch_id, batch.token, NackAction.DEAD_LETTER, reason="CORRUPT", message=str(error)
        )
        return Claimed(None, settled.due_ms, settled.at_ms)

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the base says."""
        return self._settled(
            await self._inner.ack(batch_id, token, only_if_current=only_if_current)
        )

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
        if self._bodies:
            message = self._bodies.seal_text(message, batch_id.encode())
        settled = await self._inner.nack(
            batch_id,
            token,
            action,
            retry_delay_ms=retry_delay_ms,
            reason=reason,
            message=message,
        )
        return self._settled(settled)

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """As the base says."""
        extended = await self._inner.extend(batch_id, token, lease_ms)
        return replace(extended, conversation=self._shown(extended.conversation))

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        settled = await self._inner.expire(self._hidden(conversation))
        return settled and self._settled(settled)

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        return await self._inner.flush(self._hidden(conversation))

    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """As the base says."""
        return await self._inner.hold(self._hidden(conversation), hold_ms)

    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """As the base says."""
        with _told_of(message_id):
            return await self._inner.amend(
                self._hidden(conversation),
                self._hidden_id(conversation, message_id),
                body=self._sealed(body, conversation, message_id),
                payload_bytes=payload_bytes,
            )

    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """As the base says."""
        hidden_id = self._hidden_id(conversation, message_id)
        with _told_of(message_id):
            return await self._inner.remove(self._hidden(conversation), hidden_id)

    async def discard(self, conversation: Conversation) -> int:
        """As the base says."""
        return await self._inner.discard(self._hidden(conversation))

    async def track(self, conversation: Conversation, message_id: str) -> Tracked:
        """As the base says."""
        hidden_id = self._hidden_id(conversation, message_id)
        with _told_of(message_id):
            found = await self._inner.track(self._hidden(conversation), hidden_id)
        batch = found.batch and self._info(found.batch)
        attempts = self._attempts(batch, found.attempts)
        return replace(found, batch=batch, attempts=attempts)

    async def conversations(
        self, instance: str | None, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[Listed]:
        """As the base says."""
        if after:
            after = after[0], cid_of(self._hidden(conversation_of(after[1])))
        found = await self._inner.conversations(instance, limit=limit, after=after)
        return [
            replace(
                listed,
                conversation=self._shown(listed.conversation),
                current_batch=listed.current_batch and self._info(listed.current_batch),
            )
            for listed in found
        ]

    async def requeue(self, batch_id: str) -> Requeued:
        """As the base says."""
        requeued = await self._inner.requeue(batch_id)
        conversation = requeued.conversation and self._shown(requeued.conversation)
        return replace(requeued, conversation=conversation)

    async def delete(self, batch_id: str) -> bool:
        """As the base says."""
        return await self._inner.delete(batch_id)

    async def erase(self, conversation: Conversation) -> Erased:
        """As the base says."""
        return await self._inner.erase(self._hidden(conversation))

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        status = await self._inner.status(self._hidden(conversation))
        return replace(
            status,
            current_batch=status.current_batch and self._info(status.current_batch),
            last_batch=status.last_batch and self._info(status.last_batch),
        )

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says."""
        horizon = await self._inner.horizon(limit=limit)
        return replace(horizon, expired=tuple(map(self._shown, horizon.expired)))

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says."""
        found = await self._inner.due(instance, limit=limit)
        return [replace(due, conversation=self._shown(due.conversation)) for due in found]

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        return await self._inner.stats(instance)

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        details = await self._inner.batch(batch_id)
        info = self._info(details.info)
        messages: list[StoredMessage] = []
        for message in details.messages:
            with suppress(Corrupt):
                messages.append(self._message(message, info.conversation))
        return BatchDetails(info, tuple(messages), self._attempts(info, details.attempts))

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        found = await self._inner.dead_letters(instance, limit=limit, before=before)
        return [self._info(info) for info in found]

    async def find(self, batch_id: str) -> Conversation:
        """As the base says."""
        return self._shown(await self._inner.find(batch_id))

    async def reconcile(self, *, limit: int) -> int:
        """As the base says."""
        return await self._inner.reconcile(limit=limit)

    def _hidden(self, conversation: Conversation) -> Conversation:
        if self._names is None or not conversation.name:
            return conversation
        instance = conversation.instance
        return Conversation(instance, self._names.seal(conversation.name, instance))

    def _shown(self, conversation: Conversation) -> Conversation:
        if self._names is None or not conversation.name:
            return conversation
        instance = conversation.instance
        return Conversation(instance, self._names.open(conversation.name, instance))

    def _hidden_id(self, conversation: Conversation, message_id: str) -> str:
        if self._names is None or not message_id:
            return message_id
        return self._names.seal(message_id, cid_of(conversation))

    def _shown_id(self, conversation: Conversation, message_id: str) -> str:
        if self._names is None or not message_id:
            return message_id
        return self._names.open(message_id, cid_of(conversation))

    def _sealed(self, body: bytes, conversation: Conversation, message_id: str) -> bytes:
        if self._bodies is None:
            return body
        return self._bodies.seal(body, _context(conversation, message_id))

    def _message(self, message: StoredMessage, conversation: Conversation) -> StoredMessage:
        message_id = self._shown_id(conversation, message.id)
        body = message.body
        if self._bodies:
            body = self._bodies.open(body, _context(conversation, message_id))
        return replace(message, id=message_id, body=body)

    def _batch(self, batch: Batch) -> Batch:
        info = self._info(batch.info)
        messages = tuple(self._message(message, info.conversation) for message in batch.messages)
        return replace(batch, info=info, messages=messages)

    def _info(self, info: BatchInfo) -> BatchInfo:
        text = info.last_error_message
        if self._bodies:
            text = self._bodies.open_text(text, info.batch_id.encode())
        return replace(info, conversation=self._shown(info.conversation), last_error_message=text)

    def _attempts(
        self, info: BatchInfo | None, attempts: tuple[DeliveryAttempt, ...]
    ) -> tuple[DeliveryAttempt, ...]:
        if self._bodies is None or info is None:
            return attempts
        context, bodies = info.batch_id.encode(), self._bodies
        return tuple(
            replace(attempt, error_message=bodies.open_text(attempt.error_message, context))
            for attempt in attempts
        )

    def _settled(self, settled: Settled) -> Settled:
        return replace(settled, conversation=self._shown(settled.conversation))

    def _hidden_event(self, event: LiveEvent) -> LiveEvent:
        conversation = self._hidden(event.conversation)
        batch = event.batch
        if batch:
            text = batch.last_error_message
            if self._bodies:
                text = self._bodies.seal_text(text, batch.batch_id.encode())
            batch = replace(batch, conversation=conversation, last_error_message=text)
        message_id = self._hidden_id(event.conversation, event.message_id)
        return replace(event, conversation=conversation, message_id=message_id, batch=batch)

    def _shown_event(self, event: LiveEvent) -> LiveEvent:
        conversation = self._shown(event.conversation)
        return replace(
            event,
            conversation=conversation,
            message_id=self._shown_id(conversation, event.message_id),
            batch=event.batch and self._info(event.batch),
        )


def _context(conversation: Conversation, message_id: str) -> bytes:
    """Where a body belongs. No part can run into the next: neither has a zero byte."""
    return f"{conversation.instance}\0{conversation.name}\0{message_id}".encode()


@contextmanager
def _told_of(message_id: str) -> Generator[None]:
    """Have an error name the message as its sender does."""
    try:
        yield
    except NotFound as error:
        raise NotFound(error.kind, message_id) from None
    except AlreadySealed:
        raise AlreadySealed(f"message {message_id} is in a batch, or was") from None
