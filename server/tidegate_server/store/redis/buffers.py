"""What a producer changes about a buffer: flush, hold, amend, remove, discard."""

from typing import Any

from tidegate_server.core.model import BufferInfo, Conversation
from tidegate_server.core.quota import Limit
from tidegate_server.errors import AlreadySealed, NotFound
from tidegate_server.store import answers, scripts
from tidegate_server.store.base import Changed, Flushed, Held, Store, refusal
from tidegate_server.store.redis.runner import Runner
from tidegate_server.store.scripts import Script


class Buffers(Store):
    """Flush, hold, amend, remove, discard."""

    runner: Runner

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        answer = await self.runner.run_on(scripts.FLUSH, conversation)
        info, due_ms = _buffer(answer)
        return Flushed(answer[1] == 1, info, answer[0], due_ms)

    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """As the base says."""
        answer = await self.runner.run_on(scripts.HOLD, conversation, hold_ms)
        info, due_ms = _buffer(answer)
        return Held(answer[1] == 1, info, answer[0], due_ms)

    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """As the base says."""
        quota = answers.quota_line(self.runner.rules.quota(conversation.instance))
        answer = await self._change(
            scripts.AMEND, conversation, message_id, payload_bytes, body, quota
        )
        if answer[1] == b"GONE":
            raise NotFound("message", message_id)
        info, due_ms = _buffer(answer)
        if answer[1] == b"FULL":
            raise refusal(Limit.CONVERSATION_BYTES, due_ms, answer[0])
        return Changed(info, answer[0], due_ms)

    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """As the base says."""
        answer = await self._change(scripts.REMOVE, conversation, message_id)
        if answer[1] == b"GONE":
            state = await self.runner.state(conversation)
            return Changed(state.buffer, answer[0])
        return Changed(_buffer(answer)[0], answer[0], _buffer(answer)[1])

    async def discard(self, conversation: Conversation) -> int:
        """As the base says."""
        seen = self.runner.keys.seen(conversation)
        return await self.runner.run_on(scripts.DISCARD, conversation, more_keys=seen)

    async def _change(
        self, script: Script, conversation: Conversation, message_id: str, *args: Any
    ) -> Any:
        """The answer of a script that changes one message of the buffer.

        Raises:
            NotFound: It never came, or is forgotten.
            AlreadySealed: It is in a batch, or was.
        """
        seen = self.runner.keys.seen(conversation)
        answer = await self.runner.run_on(script, conversation, message_id, *args, more_keys=seen)
        if answer[1] == b"UNKNOWN":
            raise NotFound("message", message_id)
        if answer[1] == b"SEALED":
            raise AlreadySealed(f"message {message_id} is in a batch, or was")
        return answer


def _buffer(answer: Any) -> tuple[BufferInfo | None, int | None]:
    """The buffer after a script, and when it may be claimed: not behind a batch."""
    now_ms, _, window, rest, in_front = answer
    info = answers.buffer(window, rest, now_ms)
    return info, info.flush_at_ms if info and not in_front else None
