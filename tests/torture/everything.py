"""Users and subscribers that do all that can be done, at random, and know what must come of it."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

from tests.end_to_end.traffic import flush, send, settle, window
from tests.support.history import (
    Add,
    Chat,
    Delivery,
    Flush,
    History,
    Phase,
    Settlement,
    Tally,
    tally,
)
from tidegate import (
    AlreadySealed,
    Batch,
    Client,
    DeadlineExceeded,
    LeaseLost,
    NackAction,
    NotFound,
    Superseded,
    Unavailable,
)

_PAUSE_S = 0.02
_CHATS = 5
ONCE = "once-"
"""How the only message of a conversation begins: only such become dead letters, and come back,
since they cannot come back in order."""
_AWAY = (Unavailable, DeadlineExceeded)


class Wishes:
    """What users wanted of messages that they had sent, and was granted."""

    def __init__(self) -> None:
        self.history = History()
        self.removed: dict[tuple[Chat, str], float] = {}
        self.amended: dict[tuple[Chat, str], list[tuple[float, float, str]]] = {}

    def tally(self) -> Tally:
        """What contradicts the history, or a wish. What was taken out is owed to nobody."""
        found = tally(self.history)
        removed = {name for _, name in self.removed}
        found.lost[:] = [said for said in found.lost if said.split()[1] not in removed]
        found.doubled[:] = [said for said in found.doubled if not _is_of_old(said)]
        found.other.extend(self._denied())
        return found

    def drained(self) -> bool:
        """Whether all is settled but what was taken out."""
        return self.history.owed <= self.removed.keys()

    def _denied(self) -> Iterator[str]:
        """A removed message that came later, or one with what it had been before an edit."""
        for event in self.history.events:
            if isinstance(event.what, Delivery):
                for message in event.what.messages:
                    key = event.what.chat, message.message_id
                    if self.removed.get(key, event.at_s) < event.at_s:
                        yield f"message {message.message_id} was taken out and delivered"
                    if message.payload in self._outdated(key, event.at_s):
                        yield f"message {message.message_id} was delivered as before its edit"

    def _outdated(self, key: tuple[Chat, str], at_s: float) -> set[str]:
        edits = self.amended.get(key, [])
        granted = [begun_s for begun_s, granted_s, _ in edits if granted_s < at_s]
        newest_s = max(granted, default=0.0)
        return {payload for begun_s, _, payload in edits if begun_s < newest_s}


def _is_of_old(said: str) -> bool:
    """Who comes back from the dead has a place of its own."""
    return ONCE in said and said.endswith("has several places")


class User:
    """Writes, repeats, edits, deletes, types and hurries, in a few conversations of its own."""

    def __init__(self, gate: Client, wishes: Wishes, instance: str, *, name: str, seed: int):
        self.sent = 0
        self.stopping = False
        self._gate = gate
        self._wishes = wishes
        self._chance = random.Random(seed)
        self._chats = [(instance, f"{name}-{n}") for n in range(_CHATS)]
        self._policy = window(0.1, grace_s=0.05)
        self._names = (f"{name}-{n}" for n in itertools.count())
        self._sent: list[tuple[Chat, str]] = []
        self._may_go: list[tuple[Chat, str]] = []
        """Those that opened no window: without them a batch is as late as before."""

    async def live(self) -> None:
        """Do one thing after the other until told to stop."""
        deeds = (self._write, self._write_once, self._repeat, self._amend, self._remove)
        haste = (self._type, self._hurry, self._look)
        while not self.stopping:
            (deed,) = self._chance.choices((*deeds, *haste), (60, 6, 6, 12, 8, 4, 6, 4))
            await deed()

    async def _write(self) -> None:
        chat, name = self._chance.choice(self._chats), next(self._names)
        flush = self._chance.random() < 0.05
        history = self._wishes.history
        added = await send(self._gate, history, chat, name, policy=self._policy, flush=flush)
        self.sent += 1
        self._sent.append((chat, name))
        if not added.buffer_created and not flush:
            self._may_go.append((chat, name))

    async def _write_once(self) -> None:
        name = ONCE + next(self._names)
        chat = self._chats[0][0], f"{self._chats[0][1]} {name}"
        await send(self._gate, self._wishes.history, chat, name, policy=self._policy)
        self.sent += 1

    async def _repeat(self) -> None:
        if self._sent:
            chat, name = self._chance.choice(self._sent[-20:])
            await send(self._gate, self._wishes.history, chat, name, policy=self._policy)

    async def _amend(self) -> None:
        if not self._sent:
            return
        chat, name = self._chance.choice(self._sent[-5:])
        payload = f"edit {next(self._names)} of {name}"
        edits = self._wishes.amended.setdefault((chat, name), [(0.0, 0.0, f"payload of {name}")])
        history = self._wishes.history
        operation = history.invoke(Add(chat, name, payload, 0.1))
        history.end(operation, Phase.UNKNOWN, Add(chat, name, payload, 0.1))
        begun_s = history.events[-1].at_s
        try:
            await _until_known(lambda: self._gate.amend(*chat, name, payload))
        except (AlreadySealed, NotFound):
            return
        edits.append((begun_s, _now_s(), payload))

    async def _remove(self) -> None:
        if not self._may_go:
            return
        chat, name = self._may_go.pop()
        try:
            await _until_known(lambda: self._gate.remove(*chat, name))
        except (AlreadySealed, NotFound):
            return
        self._wishes.removed[chat, name] = _now_s()

    async def _type(self) -> None:
        hold_for = timedelta(seconds=self._chance.uniform(0.01, 0.3))
        await _perhaps(self._gate.hold(*self._chance.choice(self._chats), hold_for))

    async def _hurry(self) -> None:
        await _perhaps(flush(self._gate, self._wishes.history, self._chance.choice(self._chats)))

    async def _look(self) -> None:
        await _perhaps(self._gate.status(*self._chance.choice(self._chats)))
        if self._sent:
            chat, name = self._chance.choice(self._sent[-20:])
            await _perhaps(self._gate.track(*chat, name))


class Bot:
    """What a subscriber may do with a batch: `answer` does one of it, at random."""

    def __init__(self, gate: Client, wishes: Wishes, *, seed: int):
        self._gate = gate
        self._history = wishes.history
        self._chance = random.Random(seed)
        self._buried: set[str] = set()

    async def answer(self, batch: Batch) -> None:
        """Settle it for good, as a rule."""
        fates = (self._ack, self._commit, self._extend, self._vanish)
        nacks = (NackAction.RETRY, NackAction.RELEASE, NackAction.REBUFFER)
        fate = self._chance.choices((*fates, *nacks), (40, 30, 10, 3, 5, 5, 5))[0]
        if batch.attempt > 2:
            fate = self._ack
        if batch.messages[0].id.startswith(ONCE) and batch.conversation not in self._buried:
            fate = self._bury
        if isinstance(fate, NackAction):
            await settle(self._history, batch, nack=fate)
        else:
            await fate(batch)

    async def _ack(self, batch: Batch) -> None:
        await settle(self._history, batch)

    async def _extend(self, batch: Batch) -> None:
        await _perhaps(batch.extend(timedelta(seconds=2)))
        await self._ack(batch)

    async def _vanish(self, batch: Batch) -> None:
        """The lease runs out."""

    async def _commit(self, batch: Batch) -> None:
        """Only if nobody wrote meanwhile."""
        done = Settlement(batch.id, batch.attempt)
        again = Settlement(batch.id, batch.attempt, rebuffers=True)
        while True:
            operations = [(self._history.invoke(what), what) for what in (done, again)]
            try:
                await batch.commit(give_in_after=3)
                phases = Phase.OK, Phase.FAIL
            except Superseded:
                phases = Phase.FAIL, Phase.OK
            except LeaseLost:
                phases = Phase.FAIL, Phase.FAIL
            except _AWAY:
                phases = Phase.UNKNOWN, Phase.UNKNOWN
            for (operation, what), phase in zip(operations, phases, strict=True):
                self._history.end(operation, phase, what)
            if Phase.UNKNOWN not in phases:
                return
            await asyncio.sleep(_PAUSE_S)

    async def _bury(self, batch: Batch) -> None:
        """A dead letter, and out of the grave again."""
        buried = Settlement(batch.id, batch.attempt, rebuffers=True)
        operation = self._history.invoke(buried)
        try:
            await _until_known(lambda: batch.nack(NackAction.DEAD_LETTER))
        except LeaseLost:
            self._history.end(operation, Phase.FAIL, buried)
            return
        self._history.end(operation, Phase.OK, buried)
        self._buried.add(batch.conversation)
        self._history.invoke(Flush((batch.instance, batch.conversation)))
        await _until_known(lambda: self._gate.requeue(batch.id))


async def _until_known(ask: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await ask()
            return
        except _AWAY:
            await asyncio.sleep(_PAUSE_S)


async def _perhaps(asked: Awaitable[object]) -> None:
    with contextlib.suppress(*_AWAY, NotFound, LeaseLost):
        await asked


def _now_s() -> float:
    return time.monotonic()
