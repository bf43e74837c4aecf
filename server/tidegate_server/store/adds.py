"""The messages of many callers, put into the store by one run of ADD."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tidegate_server.core.model import Conversation, NewMessage
from tidegate_server.core.quota import Quota
from tidegate_server.store import answers, scripts
from tidegate_server.store.base import AddResult
from tidegate_server.store.keys import Keys, cid_of
from tidegate_server.store.pipeline import Argument, Command

_Name = TypeVar("_Name", str, Conversation)
_MOST_MESSAGES = 512
_MOST_BYTES = 4 << 20
_MOST_HASTE_S = 0.05


class AddGroup(Command):
    """One ADD. Callers join it until it is sent; a repeat sends the same messages."""

    alone = True

    def __init__(
        self,
        keys: Keys,
        *,
        clock: Argument,
        deduplication_ms: int,
        quota: Callable[[str], Quota],
        deadline: float,
    ):
        super().__init__((), deadline=deadline)
        self._keys = keys
        self._clock = clock
        self._deduplication_ms = deduplication_ms
        self._quota = quota
        self._messages: list[NewMessage] = []
        self._callers: list[tuple[int, asyncio.Future[list[AddResult]]]] = []
        self._bytes = 0
        self._closed = False
        self.answer.add_done_callback(self._hand_out)

    def has_room(self, messages: Sequence[NewMessage], *, deadline: float) -> bool:
        """Whether these may join: also not if their own deadline is a good deal later."""
        if self._closed or deadline - self.deadline > _MOST_HASTE_S:
            return False
        size = self._bytes + sum(len(message.body) for message in messages)
        return len(self._messages) + len(messages) <= _MOST_MESSAGES and size <= _MOST_BYTES

    def join(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[AddResult]]:
        """Add a caller's messages. The future has an answer for each."""
        caller: asyncio.Future[list[AddResult]] = asyncio.get_running_loop().create_future()
        self._messages.extend(messages)
        self._bytes += sum(len(message.body) for message in messages)
        self._callers.append((len(messages), caller))
        return caller

    def args(self) -> Sequence[Argument]:
        """ADD with the messages of all that have joined; nobody can join after this."""
        if not self._closed:
            self._closed = True
            self._args = self._arguments()
        return self._args

    def _arguments(self) -> list[Argument]:
        """KEYS and ARGV as add.lua wants them."""
        places = self._places()
        instances = _numbered(conversation.instance for conversation in places)
        names = [self._keys.shared("ctr"), self._keys.shared("inst")]
        numbers = (len(instances), len(places), len(self._messages))
        values: list[Argument] = [self._clock, self._deduplication_ms, *numbers]
        for instance in instances:
            names += [self._keys.instance("due", instance), self._keys.instance("n", instance)]
            values += [instance, answers.quota_line(self._quota(instance))]
        for conversation in places:
            cid = cid_of(conversation)
            names += [self._keys.of(kind, cid) for kind in "cmde"]
            values += [cid, instances[conversation.instance] + 1]
        for message in self._messages:
            values += [
                places[message.conversation] + 1,
                message.id,
                message.payload_bytes,
                int(message.flush),
                answers.policy_line(message.policy),
                message.body,
            ]
        return ["EVALSHA", scripts.ADD.sha, len(names), *names, *values]

    def _places(self) -> dict[Conversation, int]:
        """The conversations, each with its place among them."""
        return _numbered(message.conversation for message in self._messages)

    def _hand_out(self, answer: asyncio.Future[Any]) -> None:
        self._closed = True
        error: BaseException | None = asyncio.CancelledError()
        results: list[AddResult] = []
        if not answer.cancelled():
            error = answer.exception()
            results = [] if error else self._results(answer.result())
        place = 0
        for count, caller in self._callers:
            if caller.done():
                pass
            elif error:
                caller.set_exception(error)
            else:
                caller.set_result(results[place : place + count])
            place += count

    def _results(self, answer: Any) -> list[AddResult]:
        places = self._places()
        return answers.added(answer, [places[m.conversation] for m in self._messages])


def _numbered(names: Iterable[_Name]) -> dict[_Name, int]:
    """Each name once, with its place among them."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}
