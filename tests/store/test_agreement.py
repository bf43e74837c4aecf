"""The scripts on real servers answer, step by step, what the reference store answers."""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from redis import Redis

from tests.support.audit import contradictions
from tests.support.stores import StoreProcess, binaries
from tidegate_server.core.model import (
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowMode,
    WindowPolicy,
)
from tidegate_server.core.quota import Quota
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import QuotaExceeded, TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import AddResult, Claimed, Store
from tidegate_server.store.connect import Address
from tidegate_server.store.keys import cid_of
from tidegate_server.store.memory import MemoryStore, World
from tidegate_server.store.redis import RedisStore, Rules

EPOCH_MS = 1_700_000_000_000
CHATS = (Conversation("bot", "ann"), Conversation("bot", "b{o}b"), Conversation("shop:1", "ann"))
POLICIES = (
    WindowPolicy(delay_ms=100, grace_ms=20, max_wait_ms=300, max_messages=4, max_bytes=100),
    WindowPolicy(WindowMode.SLIDING, delay_ms=60, max_wait_ms=150, max_messages=5, max_bytes=300),
    WindowPolicy(delay_ms=0, grace_ms=0, max_messages=2),
    WindowPolicy(WindowMode.SLIDING, delay_ms=50, max_wait_ms=50),
)
RETRY = RetryPolicy(retries=2, base_ms=100, max_expiries=3)
DEDUPLICATION_MS = 60_000
STEPS, STEPS_A_RUN = int(os.environ.get("STEPS", "10000")), 50
LOOP = asyncio.new_event_loop()
PREFIXES = itertools.count()

chats = st.sampled_from(CHATS)
numbers = st.integers(0, 25)
ages = st.sampled_from((0, 0, 1, 1, 2, 3, 4, 5, 6))
sizes = st.sampled_from((0, 1, 7, 30, 101))


@st.composite
def messages(draw: st.DrawFn) -> NewMessage:
    size = draw(sizes)
    return NewMessage(
        draw(chats),
        f"id {draw(numbers)}",
        b"\n" * size,
        size,
        POLICIES[draw(st.sampled_from((0, 0, 0, 1, 1, 1, 2, 3)))],
        draw(st.sampled_from((False,) * 9 + (True,))),
    )


@st.composite
def quotas(draw: st.DrawFn) -> dict[str, Quota]:
    """Limits of each instance, often none. Those of the store are the same for all."""
    some = st.sampled_from((0, 0, 1, 3, 6))
    if draw(st.booleans()):
        return {}
    of_store = draw(st.sampled_from((0, 0, 5, 9))), draw(st.sampled_from((0, 0, 0, 2)))
    return {
        instance: Quota(
            draw(some), draw(st.sampled_from((0, 0, 31, 100))), draw(some), draw(some), *of_store
        )
        for instance in ("bot", "shop:1")
    }


def comparable(added: list[AddResult]) -> list[Any]:
    return [
        (str(one), one.subject, *shown(one)) if isinstance(one, QuotaExceeded) else one
        for one in added
    ]


def shown(error: TidegateError) -> Any:
    return type(error).__name__, error.reason, getattr(error, "retry_after_ms", None)


class Agreement(RuleBasedStateMachine):
    servers: list[StoreProcess]

    def __init__(self):
        super().__init__()
        self.now = EPOCH_MS
        self.quotas: dict[str, Quota] = {}
        self.tokens = itertools.count()
        self.accepted: dict[Conversation, list[int]] = {chat: [] for chat in CHATS}
        self.delivered: list[tuple[str, str]] = [("0-999-1", "nobody"), ("other", "form")]
        prefix = f"t{next(PREFIXES)}"
        self.reference = MemoryStore(
            World(
                now=lambda: self.now,
                retry=RETRY,
                deduplication_ms=DEDUPLICATION_MS,
                quota=self.quota,
            )
        )
        self.stores = [
            RedisStore(
                Address(server.url, timeout=30).dialer(),
                counters=Metrics(),
                prefix=prefix,
                rules=Rules(retry=RETRY, deduplication_ms=DEDUPLICATION_MS, quota=self.quota),
                clock=lambda: self.now,
                jitter=lambda: 0.0,
                timeout=30,
            )
            for server in self.servers
        ]
        self.clients = [Redis.from_url(server.url) for server in self.servers]
        LOOP.run_until_complete(self._start())

    async def _start(self) -> None:
        for store in self.stores:
            store.start()

    def quota(self, instance: str) -> Quota:
        return self.quotas.get(instance, Quota())

    def teardown(self):
        async def stop() -> None:
            await asyncio.gather(*(store.stop() for store in self.stores))

        LOOP.run_until_complete(stop())
        for client in self.clients:
            client.flushall()
            client.close()

    def recent(self, age: int) -> tuple[str, str]:
        """An unsettled batch and its token; beyond those, one that went out some time ago."""
        heads = [chat.head for chat in self.reference.world.chats.values() if chat.head]
        if heads and age < 4:
            head = heads[age % len(heads)]
            return head.batch_id, head.token or "of old"
        return self.delivered[-1 - age % len(self.delivered)]

    def an_id(self, chat: Conversation, number: int) -> str:
        """Most often that of a message in the buffer."""
        row = self.reference.world.chat(chat).open_row
        return row[number % len(row)].id if row and number % 4 else f"id {number}"

    def ask(
        self,
        question: Callable[[Store], Awaitable[Any]],
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        """Ask all stores the same; fail unless all answers are alike, errors included."""

        async def answer(store: Store) -> Any:
            try:
                return read(await question(store))
            except TidegateError as error:
                return shown(error)

        async def answers() -> list[Any]:
            return await asyncio.gather(*map(answer, (self.reference, *self.stores)))

        expected, *found = LOOP.run_until_complete(answers())
        for store, one in zip(self.servers, found, strict=True):
            assert one == expected, f"{store.url} answers {one}, not {expected}"
        return expected

    @initialize(quotas=quotas())
    def limits(self, quotas: dict[str, Quota]):
        self.quotas = quotas

    @rule(ms=st.sampled_from((0, 1, 19, 20, 21, 50, 99, 100, 101, 400, DEDUPLICATION_MS)))
    def time_passes(self, ms: int):
        self.now += ms

    @rule(batch=st.lists(messages(), min_size=1, max_size=6))
    def add(self, batch: list[NewMessage]):
        self.ask(lambda store: store.add(batch), comparable)

    @rule(chat=chats, lease_ms=st.sampled_from((50, 500)), wait=st.booleans())
    def claim(self, chat: Conversation, lease_ms: int, wait: bool):
        if wait:
            self.now += 200
        token = f"token-{next(self.tokens)}"

        def claim(store: Store) -> Awaitable[Claimed]:
            return store.claim(
                chat,
                token=token,
                lease_ms=lease_ms,
                subscriber_id='sub "1"',
                channel=DeliveryChannel.PULL,
            )

        claimed = self.ask(claim)
        assert self.ask(claim) == claimed
        if claimed.batch:
            self.delivered.append((claimed.batch.info.batch_id, token))

    @rule(age=ages, current=st.booleans())
    def ack(self, age: int, current: bool):
        batch_id, token = self.recent(age)
        self.ask(lambda store: store.ack(batch_id, token, only_if_current=current))

    @rule(
        age=ages,
        action=st.sampled_from((*NackAction, NackAction.RETRY, NackAction.RETRY)),
        wait_ms=st.sampled_from((0, 0, 250)),
    )
    def nack(self, age: int, action: NackAction, wait_ms: int):
        batch_id, token = self.recent(age)
        self.ask(
            lambda store: store.nack(
                batch_id, token, action, retry_delay_ms=wait_ms, message="täuschend \\ echt"
            )
        )
        self.ask(lambda store: store.batch(batch_id))

    @rule(age=ages, lease_ms=st.sampled_from((10, 1_000)))
    def extend(self, age: int, lease_ms: int):
        batch_id, token = self.recent(age)
        self.ask(lambda store: store.extend(batch_id, token, lease_ms))

    @rule(chat=chats, wait=st.booleans())
    def expire(self, chat: Conversation, wait: bool):
        if wait:
            self.now += 500
        self.ask(lambda store: store.expire(chat))

    @rule(chat=chats)
    def flush(self, chat: Conversation):
        self.ask(lambda store: store.flush(chat))

    @rule(chat=chats, hold_ms=st.sampled_from((10, 80, 1_000)))
    def hold(self, chat: Conversation, hold_ms: int):
        self.ask(lambda store: store.hold(chat, hold_ms))

    @rule(chat=chats, number=numbers, size=sizes)
    def amend(self, chat: Conversation, number: int, size: int):
        message_id = self.an_id(chat, number)
        self.ask(
            lambda store: store.amend(chat, message_id, body=b"amended" * size, payload_bytes=size)
        )

    @rule(chat=chats, number=numbers)
    def remove(self, chat: Conversation, number: int):
        message_id = self.an_id(chat, number)
        for _ in range(2):
            self.ask(lambda store: store.remove(chat, message_id))

    @rule(chat=chats, dice=st.integers(1, 6))
    def discard_or_erase(self, chat: Conversation, dice: int):
        if dice == 1:
            self.ask(lambda store: store.erase(chat))
        elif dice < 4:
            self.ask(lambda store: store.discard(chat))

    @rule(age=ages, requeue=st.booleans())
    def requeue_or_delete(self, age: int, requeue: bool):
        letters = self.ask(lambda store: store.dead_letters(None, limit=10))
        batch_id = letters[age % len(letters)].batch_id if letters else self.recent(age)[0]
        if requeue:
            self.ask(lambda store: store.requeue(batch_id))
        else:
            self.ask(lambda store: store.delete(batch_id))

    @rule(
        chat=chats,
        batch=st.lists(messages(), max_size=3),
        end=st.sampled_from(("ack", "current", "current", "rebuffer", "dead letter", "lease")),
    )
    def turn(self, chat: Conversation, batch: list[NewMessage], end: str):
        """A batch goes out, its user perhaps writes again, and it is settled."""
        self.claim(chat, 500, wait=True)
        if batch:
            self.add([replace(message, conversation=chat) for message in batch])
        if end in ("ack", "current"):
            self.ack(0, end == "current")
        elif end == "lease":
            self.expire(chat, wait=True)
        else:
            self.nack(0, NackAction[end.upper().replace(" ", "_")], 0)

    @rule(chat=chats, age=ages, number=numbers)
    def look(self, chat: Conversation, age: int, number: int):
        batch_id, _ = self.recent(age)
        self.ask(lambda store: store.status(chat))
        self.ask(lambda store: store.batch(batch_id))
        self.ask(lambda store: store.track(chat, f"id {number}"))
        self.ask(lambda store: store.due("bot", limit=2))
        self.ask(lambda store: store.horizon(limit=5))
        for instance in (None, "bot", "shop:1"):
            self.ask(lambda store, of=instance: store.stats(of))
            self.ask(lambda store, of=instance: store.dead_letters(of, limit=3))
            pages = self.ask(lambda store, of=instance: store.conversations(of, limit=2))
            if pages:
                place = pages[-1].place_ms, cid_of(pages[-1].conversation)
                self.ask(
                    lambda store, of=instance, after=place: store.conversations(
                        of, limit=2, after=after
                    )
                )

    @invariant()
    def the_keys_are_sound(self):
        for store, client in zip(self.stores, self.clients, strict=True):
            keys = store.runner.keys
            assert contradictions(client, keys, deduplication_ms=DEDUPLICATION_MS) == []

    @invariant()
    def nothing_needs_repair(self):
        async def repairs() -> list[int]:
            return await asyncio.gather(*(store.reconcile(limit=1000) for store in self.stores))

        assert sum(LOOP.run_until_complete(repairs())) == 0


@pytest.fixture
def servers() -> Iterator[list[StoreProcess]]:
    """One Redis and one Valkey, where both are to be had."""
    kinds = {name.split("-")[0]: path for name, path in reversed(binaries())}
    started = [StoreProcess(path) for path in kinds.values()]
    for server in started:
        LOOP.run_until_complete(server.start())
    yield started
    for server in started:
        LOOP.run_until_complete(server.stop())


@pytest.mark.timeout(max(300, STEPS // 20))
def test_the_scripts_agree_with_the_reference_store(servers: list[StoreProcess]):
    class Run(Agreement.TestCase):  # pyright: ignore[reportUntypedBaseClass]
        settings = settings(
            max_examples=STEPS // STEPS_A_RUN,
            stateful_step_count=STEPS_A_RUN,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )

    Agreement.servers = servers
    Run().runTest()
