"""What a producer changes about a buffer: flush, hold, amend, remove, discard."""

from dataclasses import replace

from tidegate_server.core import window as windows
from tidegate_server.core.model import Conversation, StoredMessage
from tidegate_server.core.quota import Limit, may_grow
from tidegate_server.errors import AlreadySealed, NotFound
from tidegate_server.store.base import Changed, Flushed, Held, Store, refusal
from tidegate_server.store.memory.state import Chat, World, buffer_of


class Buffers(Store):
    """Flush, hold, amend, remove, discard."""

    world: World

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        flushed = chat.flush(now)
        return Flushed(flushed, buffer_of(chat, now), now, chat.opens_ms)

    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        held = chat.window is not None and not chat.window.is_over(now)
        if chat.window:
            chat.window = windows.hold(chat.window, now, hold_ms)
        return Held(held, buffer_of(chat, now), now, chat.opens_ms)

    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        message = _find(chat, message_id)
        if message is None or chat.window is None:
            raise NotFound("message", message_id)
        before = sum(kept.payload_bytes for kept in chat.open_row)
        after = before - message.payload_bytes + payload_bytes
        if not may_grow(self.world.quota(conversation.instance), before, after):
            raise refusal(Limit.CONVERSATION_BYTES, chat.opens_ms, now)
        amended = replace(message, body=body, payload_bytes=payload_bytes, amended_at_ms=now)
        chat.row[chat.row.index(message)] = amended
        chat.recount(chat.window, now)
        return Changed(buffer_of(chat, now), now, chat.opens_ms)

    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """As the base says."""
        now = self.world.now()
        chat = self.world.chat(conversation)
        message = _find(chat, message_id)
        if message is None:
            return Changed(buffer_of(chat, now), now)
        chat.take_out(message, now)
        self._mark_gone(chat, message_id)
        return Changed(buffer_of(chat, now), now, chat.opens_ms)

    async def discard(self, conversation: Conversation) -> int:
        """As the base says."""
        chat = self.world.chat(conversation)
        dropped = chat.drop_buffer()
        for message in dropped:
            self._mark_gone(chat, message.id)
        return len(dropped)

    def _mark_gone(self, chat: Chat, message_id: str) -> None:
        if seen := chat.recall(message_id):
            seen.gone = True


def _find(chat: Chat, message_id: str) -> StoredMessage | None:
    """The message in the buffer; None if it was taken out of it.

    Raises:
        NotFound: It never came, or is forgotten.
        AlreadySealed: It is in a batch, or was.
    """
    seen = chat.recall(message_id)
    if seen is None:
        raise NotFound("message", message_id)
    if seen.gone:
        return None
    for message in chat.open_row:
        if message.sequence == seen.sequence:
            return message
    raise AlreadySealed(f"message {message_id} is in a batch, or was")
