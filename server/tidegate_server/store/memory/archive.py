"""What an operator sees and does: status, listings, dead letters, erasure."""

from tidegate_server.core.model import BatchInfo, BatchState, Conversation
from tidegate_server.errors import NotFound
from tidegate_server.store.base import (
    BatchDetails,
    Due,
    Erased,
    Horizon,
    Listed,
    Requeued,
    Stats,
    Status,
    Store,
    Tracked,
)
from tidegate_server.store.keys import cid_of
from tidegate_server.store.memory.state import Chat, Past, Seen, World, buffer_of, info_of

Place = tuple[int, str]


class Archive(Store):
    """Status, track, listings, batches, dead letters, erase, stats."""

    world: World

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        last = self.world.settled_of(conversation, now)
        current = info_of(chat, chat.head) if chat.head else None
        return Status(buffer_of(chat, now), current, last.info if last else None)

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says."""
        now = self.world.now()
        dues: dict[str, int] = {}
        leases: list[tuple[int, Conversation]] = []
        for chat in self.world.chats.values():
            if (due := chat.claimable_ms) is not None:
                instance = chat.conversation.instance
                dues[instance] = min(due, dues.get(instance, due))
            if chat.head and chat.head.lease_ms is not None:
                leases.append((chat.head.lease_ms, chat.conversation))
        leases.sort(key=lambda lease: (lease[0], cid_of(lease[1])))
        ready = sorted((due, instance) for instance, due in dues.items() if due <= now)
        later = [due for due in dues.values() if due > now]
        later += [end for end, _ in leases if end > now]
        return Horizon(
            now,
            tuple(instance for _, instance in ready[:limit]),
            tuple(conversation for end, conversation in leases[:limit] if end <= now),
            min(later, default=None),
        )

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says."""
        found = [
            Due(chat.conversation, chat.claimable_ms)
            for chat in self.world.chats.values()
            if chat.conversation.instance == instance and chat.claimable_ms is not None
        ]
        return sorted(found, key=lambda due: (due.due_ms, cid_of(due.conversation)))[:limit]

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        now = self.world.now()
        chats = [
            chat
            for chat in self.world.chats.values()
            if instance in (None, chat.conversation.instance)
        ]
        heads = [chat.head for chat in chats if chat.head]
        dues = [chat.claimable_ms for chat in chats if chat.claimable_ms is not None]
        return Stats(
            open_buffers=sum(1 for chat in chats if chat.open_row),
            buffered_messages=sum(len(chat.open_row) for chat in chats),
            delivering_batches=sum(1 for head in heads if head.lease_ms is not None),
            retrying_batches=sum(1 for head in heads if head.lease_ms is None),
            dead_letters=len(await self.dead_letters(instance, limit=1 << 30)),
            oldest_due_age_ms=max(0, now - min(dues, default=now)),
        )

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        now = self.world.now()
        for chat in self.world.chats.values():
            if chat.head and chat.head.batch_id == batch_id:
                row = tuple(chat.row[: chat.head.messages])
                return BatchDetails(info_of(chat, chat.head), row, tuple(chat.head.attempts))
        details = self.world.details(batch_id, now)
        if details is None:
            raise NotFound("batch", batch_id)
        return details

    async def find(self, batch_id: str) -> Conversation:
        """As the base says."""
        return (await self.batch(batch_id)).info.conversation

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: tuple[int, str] | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        found = [
            past.info
            for past in self.world.settled.values()
            if past.info.state is BatchState.DEAD_LETTERED
            and instance in (None, past.info.conversation.instance)
        ]
        found.sort(key=lambda info: (info.settled_at_ms or 0, info.batch_id), reverse=True)
        if before:
            found = [i for i in found if (i.settled_at_ms or 0, i.batch_id) < before]
        return found[:limit]

    async def track(self, conversation: Conversation, message_id: str) -> Tracked:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        seen = chat.recall(message_id)
        if seen is None:
            raise NotFound("message", message_id)
        known = seen.sequence, seen.at_ms, seen.duplicates
        if seen.gone:
            return Tracked(*known, None, None)
        if chat.head and _holds(info_of(chat, chat.head), seen):
            return Tracked(*known, None, info_of(chat, chat.head), tuple(chat.head.attempts))
        for past in self._past_of(conversation, now):
            if _holds(past.info, seen) and past.info.state is not BatchState.REBUFFERED:
                return Tracked(*known, None, past.info, tuple(past.head.attempts))
        return Tracked(*known, buffer_of(chat, now), None)

    def _past_of(self, conversation: Conversation, now: int) -> list[Past]:
        """The conversation's batches in a final state, newest first."""
        found = [p for p in self.world.settled.values() if p.info.conversation == conversation]
        return [p for p in reversed(found) if self.world.past(p.info.batch_id, now)]

    async def conversations(
        self, instance: str | None, *, limit: int, after: Place | None = None
    ) -> list[Listed]:
        """As the base says."""
        now = self.world.now()
        places = sorted(
            ((_place_ms(chat), cid_of(chat.conversation)), chat)
            for chat in self.world.chats.values()
            if chat.row and instance in (None, chat.conversation.instance)
        )
        return [
            Listed(
                chat.conversation,
                place[0],
                buffer_of(chat, now),
                info_of(chat, chat.head) if chat.head else None,
            )
            for place, chat in places
            if after is None or place > after
        ][:limit]

    async def requeue(self, batch_id: str) -> Requeued:
        """As the base says."""
        now = self.world.now()
        past = self.world.settled.get(batch_id)
        if past is None or past.info.state is not BatchState.DEAD_LETTERED:
            return Requeued(False)
        del self.world.settled[batch_id]
        chat = self.world.chat(past.info.conversation)
        messages = self.world.renumber(past.messages, now)
        chat.turn_page(now, self.world.deduplication_ms)
        for message in messages:
            chat.take_id(message.id, message.sequence, now, self.world.deduplication_ms)
        chat.put_back(messages, past.head.policy, now)
        return Requeued(True, chat.conversation, now, chat.opens_ms)

    async def delete(self, batch_id: str) -> bool:
        """As the base says."""
        past = self.world.settled.get(batch_id)
        if past is None or past.info.state is not BatchState.DEAD_LETTERED:
            return False
        self.world.throw_away(past)
        return True

    async def erase(self, conversation: Conversation) -> Erased:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chats.pop(conversation, Chat(conversation))
        messages = len(chat.row)
        for batch_id, past in list(self.world.settled.items()):
            if past.info.conversation == conversation:
                details = self.world.details(batch_id, now)
                messages += len(details.messages) if details else 0
                del self.world.settled[batch_id]
        return Erased(messages, chat.batch_id)


def _holds(info: BatchInfo, seen: Seen) -> bool:
    return info.first_sequence <= seen.sequence <= info.last_sequence


def _place_ms(chat: Chat) -> int:
    """The conversation's time in the index that it is in."""
    if chat.head and chat.head.lease_ms is not None:
        return chat.head.lease_ms
    return chat.claimable_ms or 0
