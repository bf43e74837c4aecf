"""The scripts on real servers answer, step by step, what the reference store answers."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
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
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import Added, Store
from tidegate_server.store.connect import Address
from tidegate_server.store.memory import MemoryStore
from tidegate_server.store.redis import RedisStore

EPOCH_MS = 1_700_000_000_000
CHATS = (Conversation("bot", "ann"), Conversation("bot", "b{o}b"), Conversation("shop:1", "ann"))
POLICIES = (
    WindowPolicy(delay_ms=100, grace_ms=20, max_wait_ms=300, max_messages=4, max_bytes=100),
    WindowPolicy(WindowMode.SLIDING, delay_ms=60, max_wait_ms=150, max_messages=5, max_bytes=300),
    WindowPolicy(delay_ms=0, grace_ms=0, max_messages=2),
    WindowPolicy(WindowMode.SLIDING, delay_ms=50, max_wait_ms=50),
)
RETRY = RetryPolicy(retries=2, base_ms=100, max_expiries=3)
LOOP = asyncio.new_event_loop()
PREFIXES = itertools.count()

chats = st.sampled_from(CHATS)
messages = st.builds(
    lambda chat, number, size, flush, policy: NewMessage(
        chat, f"id {number}", b"\n" * size, size, POLICIES[policy], flush
    ),
    chats,
    st.integers(0, 60),
    st.sampled_from((0, 1, 7, 30, 101)),
    st.sampled_from((False,) * 9 + (True,)),
    st.sampled_from((0, 0, 0, 1, 1, 1, 2, 3)),
)


def comparable(added: list[Added], batch: list[NewMessage]) -> list[Any]:
    """Only the last answer of a conversation has its buffer on a real store."""
    last = {message.conversation: place for place, message in enumerate(batch)}
    return [
        one
        if last[message.conversation] == place
        else (one.outcome, one.sequence, one.at_ms, one.buffer_created, one.in_flight)
        for place, (one, message) in enumerate(zip(added, batch, strict=True))
    ]


class Agreement(RuleBasedStateMachine):
    servers: list[StoreProcess]

    def __init__(self):
        super().__init__()
        self.now = EPOCH_MS
        self.tokens = itertools.count()
        self.accepted: dict[Conversation, list[int]] = {chat: [] for chat in CHATS}
        self.delivered: list[tuple[str, str]] = [("0-999-1", "nobody"), ("other", "form")]
        prefix = f"t{next(PREFIXES)}"
        self.reference = MemoryStore(clock=lambda: self.now, retry=RETRY, deduplication_ms=5_000)
        self.stores = [
            RedisStore(
                Address(server.url, timeout=30).connector(),
                counters=Metrics(),
                prefix=prefix,
                retry=RETRY,
                deduplication_ms=5_000,
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

    def teardown(self):
        async def stop() -> None:
            await asyncio.gather(*(store.stop() for store in self.stores))

        LOOP.run_until_complete(stop())
        for client in self.clients:
            client.flushall()
            client.close()

    def ask(
        self,
        question: Callable[[Store], Awaitable[Any]],
        shown: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        """Ask all stores the same; fail unless all answers are alike, errors included."""

        async def answer(store: Store) -> Any:
            try:
                return shown(await question(store))
            except TidegateError as error:
                return type(error).__name__, error.reason

        async def answers() -> list[Any]:
            return await asyncio.gather(*map(answer, (self.reference, *self.stores)))

        expected, *found = LOOP.run_until_complete(answers())
        for store, one in zip(self.servers, found, strict=True):
            assert one == expected, f"{store.url} answers {one}, not {expected}"
        return expected

    @rule(ms=st.sampled_from((0, 1, 19, 20, 21, 50, 99, 100, 101, 400, 6_000)))
    def time_passes(self, ms: int):
        self.now += ms

    @rule(batch=st.lists(messages, min_size=1, max_size=6))
    def add(self, batch: list[NewMessage]):
        self.ask(lambda store: store.add(batch), lambda added: comparable(added, batch))

    @rule(chat=chats, lease_ms=st.sampled_from((50, 500)), wait=st.booleans())
    def claim(self, chat: Conversation, lease_ms: int, wait: bool):
        if wait:
            self.now += 200
        token = f"token-{next(self.tokens)}"
        for _ in range(2):
            claimed = self.ask(
                lambda store: store.claim(
                    chat,
                    token=token,
                    lease_ms=lease_ms,
                    subscriber_id='sub "1"',
                    channel=DeliveryChannel.PULL,
                )
            )
        if claimed.batch:
            self.delivered.append((claimed.batch.info.batch_id, token))

    @rule(age=st.integers(0, 3), current=st.booleans())
    def ack(self, age: int, current: bool):
        batch_id, token = self.delivered[-1 - age % len(self.delivered)]
        self.ask(lambda store: store.ack(batch_id, token, only_if_current=current))

    @rule(
        age=st.integers(0, 3),
        action=st.sampled_from((*NackAction, NackAction.RETRY, NackAction.RETRY)),
        wait_ms=st.sampled_from((0, 0, 250)),
    )
    def nack(self, age: int, action: NackAction, wait_ms: int):
        batch_id, token = self.delivered[-1 - age % len(self.delivered)]
        self.ask(
            lambda store: store.nack(
                batch_id, token, action, retry_delay_ms=wait_ms, message="täuschend \\ echt"
            )
        )

    @rule(age=st.integers(0, 3), lease_ms=st.sampled_from((10, 1_000)))
    def extend(self, age: int, lease_ms: int):
        batch_id, token = self.delivered[-1 - age % len(self.delivered)]
        self.ask(lambda store: store.extend(batch_id, token, lease_ms))

    @rule(chat=chats, wait=st.booleans())
    def expire(self, chat: Conversation, wait: bool):
        if wait:
            self.now += 500
        self.ask(lambda store: store.expire(chat))

    @rule(chat=chats)
    def flush(self, chat: Conversation):
        self.ask(lambda store: store.flush(chat))

    @rule(chat=chats, age=st.integers(0, 5))
    def look(self, chat: Conversation, age: int):
        batch_id, _ = self.delivered[-1 - age % len(self.delivered)]
        self.ask(lambda store: store.status(chat))
        self.ask(lambda store: store.batch(batch_id))
        self.ask(lambda store: store.due("bot", limit=2))
        self.ask(lambda store: store.horizon(limit=5))
        for instance in (None, "bot", "shop:1"):
            self.ask(lambda store, of=instance: store.stats(of))
            self.ask(lambda store, of=instance: store.dead_letters(of, limit=3))

    @invariant()
    def the_keys_are_sound(self):
        for store, client in zip(self.stores, self.clients, strict=True):
            assert contradictions(client, store.keys) == []

    @invariant()
    def nothing_needs_repair(self):
        for store in self.stores:
            assert LOOP.run_until_complete(store.reconcile(limit=1000)) == 0


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


@pytest.mark.timeout(300)
def test_the_scripts_agree_with_the_reference_store(servers: list[StoreProcess]):
    class Run(Agreement.TestCase):  # pyright: ignore[reportUntypedBaseClass]
        settings = settings(
            max_examples=200,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )

    Agreement.servers = servers
    Run().runTest()
