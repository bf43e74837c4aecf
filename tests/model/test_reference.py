"""Random ways through the model, gone by the reference store too: both must stand where they meet.

Lost answers are answers that nobody looks at; a failover brings a copy of the store back.
"""

import copy
import itertools
import random
from collections.abc import Mapping, Sequence

import pytest

from tests.model.bounds import Bound
from tests.model.rules import EXPIRIES, LIMIT, RETRIES, Rules
from tests.model.state import LOST, REBUFFERED, RECLAIMS, Chat, State, Step, Verdict
from tests.model.system import ACTIONS
from tests.repository.paths import ROOT
from tidegate_server.core.model import (
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    StoredMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import LeaseLost, NotFound
from tidegate_server.store.memory import MemoryStore, World
from tidegate_server.store.memory import state as reference

SCRIPTS = {"add", "claim", "ack", "nack", "expire"}
FAULTS = {"lost answer", "crash of worker", "crash of server", "failover"}
POLICY = WindowPolicy(delay_ms=8_000, max_messages=LIMIT)
WAYS = 75


class Replay:
    """The reference store on the model's way."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.store = MemoryStore(
            World(
                now=lambda: self.now_ms,
                retry=RetryPolicy(retries=RETRIES, max_expiries=EXPIRIES),
            )
        )
        self.world = self.store.world
        self.copies = [self._copy()]
        self.tokens: dict[tuple[int, int], str] = {}
        self.batches: dict[tuple[int, int], str] = {}
        self._fresh = itertools.count()

    async def go(self, before: State, step: Step, after: State) -> None:
        self.now_ms += 1
        match step.name:
            case "add":
                await self._add(step)
            case "claim":
                await self._claim(before, step, after)
            case "ack" | "nack":
                await self._settle(before, step)
            case "expire":
                head = self._chat(step.chat).head
                assert head
                assert head.lease_ms
                self.now_ms = max(self.now_ms, head.lease_ms)
                assert await self.store.expire(_name(step.chat))
            case "failover":
                behind = int(step.detail.split()[0]) if step.detail else 0
                self._restore(self.copies[-1 - behind])
                self.copies = self.copies[-1 - behind :][:1]
            case _:
                pass
        grown = len(after.log) > len(before.log)
        kept = self.copies if grown else self.copies[:-1]
        self.copies = [*kept, self._copy()][-len(after.log) :]

    async def _add(self, step: Step) -> None:
        await self.store.add([NewMessage(_name(step.chat), f"{step.who}", b"", 0, POLICY)])

    async def _claim(self, before: State, step: Step, after: State) -> None:
        key = step.chat, step.who
        if not any((w.phase, w.chat, w.token) == (RECLAIMS, *key) for w in before.workers):
            self.tokens[key] = f"token {next(self._fresh)}"
        self.now_ms = max(self.now_ms, self._chat(step.chat).claimable_ms or 0)
        claimed = await self.store.claim(
            _name(step.chat),
            token=self.tokens[key],
            lease_ms=30_000,
            subscriber_id="",
            channel=DeliveryChannel.STREAM,
        )
        chat = after.store[step.chat]
        if claimed.batch is None:
            assert chat == before.store[step.chat]
            return
        assert chat.head
        batch = step.chat, chat.head.batch
        if before.store[step.chat].head is None:
            self.batches[batch] = claimed.batch.info.batch_id
        assert claimed.batch.info.batch_id == self.batches[batch]
        assert tuple(int(message.id) for message in claimed.batch.messages) == chat.sealed

    async def _settle(self, before: State, step: Step) -> None:
        action, _, number = step.detail.partition(", batch ")
        batch, verdict = int(number), Verdict(step.who, action)
        rules, chat = Rules(), before.store[step.chat]
        script = rules.nack if action in ACTIONS else rules.ack
        _, expected = script(chat, batch, verdict)
        batch_id = self.batches[step.chat, batch]
        token = self.tokens[step.chat, step.who]
        try:
            if action in ACTIONS:
                settled = await self.store.nack(batch_id, token, NackAction[action])
            else:
                settled = await self.store.ack(batch_id, token, only_if_current=action == "current")
            assert settled.state.name == expected
        except (LeaseLost, NotFound):
            assert expected == LOST

    def meets(self, state: State) -> None:
        for number, chat in enumerate(state.store):
            self._meets(number, chat)

    def _meets(self, number: int, model: Chat) -> None:
        chat, head = self._chat(number), model.head
        assert _ids(chat.row) == model.row
        assert (chat.claimable_ms is not None) == model.due
        assert (chat.head is not None and chat.head.lease_ms is not None) == model.lease
        assert tuple(int(i) for i in sorted(chat.seen, key=lambda i: chat.seen[i].sequence)) == (
            model.ids
        )
        assert bool(chat.head) == bool(head)
        if head and chat.head:
            assert chat.head.batch_id == self.batches[number, head.batch]
            assert chat.head.token == (self.tokens[number, head.token] if head.token else "")
            assert (chat.head.messages, chat.head.nacks, chat.head.expiries) == (
                head.size,
                head.nacks,
                head.expiries,
            )
        past = {p.info.batch_id: p for p in self.world.settled.values()}
        for known in model.past:
            settled = past[self.batches[number, known.batch]]
            assert settled.info.state.name == known.outcome
            if known.outcome != REBUFFERED:
                assert _ids(settled.messages) == known.messages

    def _chat(self, number: int) -> reference.Chat:
        return self.world.chat(_name(number))

    def _copy(self) -> Mapping[str, object]:
        names = ("sequence", "fence", "chats", "settled", "newest")
        return copy.deepcopy({name: getattr(self.world, name) for name in names})

    def _restore(self, kept: Mapping[str, object]) -> None:
        for name, value in copy.deepcopy(dict(kept)).items():
            setattr(self.world, name, value)


def _name(number: int) -> Conversation:
    return Conversation("bot", str(number))


def _ids(messages: Sequence[StoredMessage]) -> tuple[int, ...]:
    return tuple(int(message.id) for message in messages)


@pytest.mark.parametrize("bound", [Bound((4,), 5), Bound((2, 2), 4)], ids=str)
async def test_the_reference_store_goes_every_way_that_the_model_goes(bound: Bound):
    seen = set[str]()
    for way in range(WAYS):
        dice, system, replay = random.Random(way), bound.system(Rules()), Replay()
        state = system.start()
        while steps := list(system.steps(state)):
            step, after = dice.choice(steps)
            await replay.go(state, step, after)
            replay.meets(after)
            state = after
            seen.add(step.name)
    assert seen >= SCRIPTS | FAULTS


def test_the_steps_are_named_as_the_scripts_and_actions_are():
    lua = ROOT / "server" / "tidegate_server" / "store" / "lua"
    assert [name for name in SCRIPTS if not (lua / f"{name}.lua").exists()] == []
    assert set(ACTIONS) | {"DEAD_LETTER"} == {action.name for action in NackAction}
