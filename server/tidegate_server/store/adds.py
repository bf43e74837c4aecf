"""The messages of many callers, put into the store by one run of ADD."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tidegate_server.core.model import Conversation, NewMessage
from tidegate_server.store import answers, scripts
from tidegate_server.store.base import Added
from tidegate_server.store.keys import Keys, cid_of
from tidegate_server.store.pipeline import Argument, Command

_MOST_MESSAGES = 512
_MOST_BYTES = 4 << 20
_MOST_HASTE_S = 0.05


class AddGroup(Command):
    """One ADD. Callers join it until it is sent; a repeat sends the same messages."""

    alone = True

    def __init__(self, keys: Keys, *, clock: Argument, deduplication_ms: int, deadline: float):
        super().__init__((), deadline=deadline)
        self._keys = keys
        self._clock = clock
        self._deduplication_ms = deduplication_ms
        self._messages: list[NewMessage] = []
        self._callers: list[tuple[int, asyncio.Future[list[Added]]]] = []
        self._bytes = 0
        self._closed = False
        self.answer.add_done_callback(self._hand_out)

    def has_room(self, messages: Sequence[NewMessage], *, deadline: float) -> bool:
        """Whether these may join: also not if their own deadline is a good deal later."""
        if self._closed or deadline - self.deadline > _MOST_HASTE_S:
            return False
        size = self._bytes + sum(len(message.body) for message in messages)
        return len(self._messages) + len(messages) <= _MOST_MESSAGES and size <= _MOST_BYTES

    def join(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Added]]:
        """Add a caller's messages. The future has an answer for each."""
        caller: asyncio.Future[list[Added]] = asyncio.get_running_loop().create_future()
        self._messages.extend(messages)
        self._bytes += sum(len(message.body) for message in messages)
        self._callers.append((len(messages), caller))
        return caller

    def args(self) -> Sequence[Argument]:
        """ADD with the messages of all that have joined; nobody can join after this."""
        if not self._closed:
            self._closed = True
            self._args = _arguments(self._keys, self._messages, self._clock, self._deduplication_ms)
        return self._args

    def _hand_out(self, answer: asyncio.Future[Any]) -> None:
        self._closed = True
        error = None if answer.cancelled() else answer.exception()
        results = [] if error or answer.cancelled() else answer.result()
        place = 0
        for count, caller in self._callers:
            if caller.done():
                pass
            elif error or not results:
                caller.set_exception(error or asyncio.CancelledError())
            else:
                caller.set_result([answers.added(a) for a in results[place : place + count]])
            place += count


def _arguments(
    keys: Keys, messages: Sequence[NewMessage], clock: Argument, deduplication_ms: int
) -> list[Argument]:
    """KEYS and ARGV as add.lua wants them."""
    instances: dict[str, int] = {}
    conversations: dict[Conversation, int] = {}
    for message in messages:
        conversation = message.conversation
        if conversation not in conversations:
            conversations[conversation] = len(conversations) + 1
            instances.setdefault(conversation.instance, len(instances) + 1)

    names = [keys.shared("ctr"), keys.shared("inst")]
    for instance in instances:
        names += [keys.instance("due", instance), keys.instance("n", instance)]
    places: list[Argument] = []
    for conversation in conversations:
        cid = cid_of(conversation)
        names += [keys.of(kind, cid) for kind in "cmde"]
        places += [cid, instances[conversation.instance]]

    arguments: list[Argument] = ["EVALSHA", scripts.ADD.sha, len(names), *names]
    arguments += [clock, deduplication_ms, len(instances), len(conversations), len(messages)]
    arguments += [*instances, *places]
    for message in messages:
        arguments += [
            conversations[message.conversation],
            message.id,
            message.payload_bytes,
            int(message.flush),
            answers.policy_line(message.policy),
            message.body,
        ]
    return arguments
