"""Conversations that are due and wait for a subscriber with room, in a line per instance."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Set

from tidegate_server.core.model import Conversation


class _Line:
    __slots__ = ("turn", "waiting")

    def __init__(self, turn: int):
        self.turn = turn
        self.waiting: OrderedDict[Conversation, None] = OrderedDict()


class Backlog:
    """Lines of at most `limit` conversations. Instances take turns, whatever the length."""

    def __init__(self, *, limit: int):
        self._limit = limit
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._turns = itertools.count()

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __contains__(self, instance: str) -> bool:
        return instance in self._lines

    def add(self, conversation: Conversation) -> bool:
        """Put a conversation at the end of its instance's line. False: the line is full."""
        line = self._lines.get(conversation.instance)
        if line is None:
            line = self._lines[conversation.instance] = _Line(next(self._turns))
        if conversation not in line.waiting and len(line.waiting) >= self._limit:
            return False
        line.waiting[conversation] = None
        return True

    def take(self, instances: Set[str]) -> Conversation | None:
        """The first conversation of that of the instances (none: of all) whose turn it is."""
        if not instances:
            instance = next(iter(self._lines), None)
        else:
            waiting = [i for i in instances if i in self._lines]
            instance = min(waiting, key=lambda i: self._lines[i].turn, default=None)
        if instance is None:
            return None
        line = self._lines[instance]
        conversation, _ = line.waiting.popitem(last=False)
        line.turn = next(self._turns)
        self._lines.move_to_end(instance)
        if not line.waiting:
            del self._lines[instance]
        return conversation

    def drop(self, instance: str) -> list[Conversation]:
        """Take a whole line away."""
        line = self._lines.pop(instance, None)
        return list(line.waiting) if line else []
