"""Many partitions answer what one does, and one that is away holds no other up."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, cast

import pytest

from tests.support.stores import StoreProcess
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api.intake import Intake, IntakeRules
from tidegate_server.api.rpc import Call
from tidegate_server.core.access import EVERYTHING
from tidegate_server.core.model import (
    Batch,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import NotFound, StoreUnavailable, TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber
from tidegate_server.store.base import Claimed
from tidegate_server.store.connect import Address
from tidegate_server.store.dial import Dialer
from tidegate_server.store.keys import cid_of, partition_of
from tidegate_server.store.redis import PartitionedStore, Rules, new_store
from tidegate_server.store.sealed import SealedStore
from tidegate_server.store.sealing import NameKey, Seals

EPOCH_MS = 1_700_000_000_000
CHATS = [Conversation(f"bot{n % 3}", f"user {n}") for n in range(24)]
POLICY = WindowPolicy(delay_ms=100, grace_ms=20, max_wait_ms=300, max_messages=3)
NOW, SOON = WindowPolicy(delay_ms=0, grace_ms=0), WindowPolicy(delay_ms=50, grace_ms=0)
LATER = WindowPolicy(delay_ms=3_600_000, grace_ms=0, max_wait_ms=3_600_000)
RULES = Rules(retry=RetryPolicy(retries=2, base_ms=100, max_expiries=3), deduplication_ms=5_000)
OWN = {"batch_id", "in_flight", "sequence", "first_sequence", "last_sequence", "clocks"}
"""What each partition counts for itself."""


def message(name: str, chat: Conversation, policy: WindowPolicy = POLICY) -> NewMessage:
    return NewMessage(chat, name, name.encode(), len(name), policy)


def open_store(
    dialer: Callable[[int], Dialer],
    partitions: int,
    *,
    prefix: str = "tg",
    clock: Callable[[], int] | None = None,
    timeout: float = 30,
) -> Any:
    store = new_store(
        dialer,
        partitions=partitions,
        counters=Metrics(),
        prefix=prefix,
        timeout=timeout,
        rules=RULES,
        clock=clock,
    )
    for runner in store.runners:
        runner.jitter = lambda: 0.0
    store.start()
    return store


@pytest.fixture
async def process() -> AsyncIterator[StoreProcess]:
    async with StoreProcess() as started:
        yield started


def plain(value: Any) -> Any:
    """An answer without what each partition counts for itself."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in OWN]
        return {name: plain(getattr(value, name)) for name in names}
    return value


class Side:
    """One of two stores that are asked the same; it knows its own batches."""

    def __init__(self, store: Any):
        self.store = store
        self.batches: list[tuple[str, str]] = []

    async def claim(self, chat: Conversation, token: str) -> Claimed:
        claimed = await self.store.claim(
            chat, token=token, lease_ms=500, subscriber_id="sub", channel=DeliveryChannel.PULL
        )
        if claimed.batch:
            self.batches.append((claimed.batch.info.batch_id, token))
        return claimed

    async def listing(self, instance: str | None) -> list[Any]:
        """All pages of five."""
        pages: list[Any] = []
        after = None
        while page := await self.store.conversations(instance, limit=5, after=after):
            pages.append(page)
            after = page[-1].place_ms, cid_of(page[-1].conversation)
        return pages

    async def letters(self, instance: str | None) -> list[Any]:
        pages: list[Any] = []
        before = None
        while page := await self.store.dead_letters(instance, limit=5, before=before):
            pages.append(page)
            before = page[-1].settled_at_ms or 0, page[-1].batch_id
        return pages


class Twins:
    """A store of one partition and one of many, which are asked the same."""

    def __init__(self, process: StoreProcess):
        self.now = EPOCH_MS
        dialer = Address(process.url, timeout=30).dialer
        self.sides = [
            Side(open_store(dialer, count, prefix=f"t{count}", clock=lambda: self.now))
            for count in (1, 64)
        ]
        self.answered = Counter[str]()

    async def ask(self, name: str, question: Callable[[Side], Awaitable[Any]]) -> Any:
        """The answer of both, which must be the same."""

        async def answer(side: Side) -> Any:
            try:
                return plain(await question(side))
            except TidegateError as error:
                return type(error).__name__

        one, many = await asyncio.gather(*map(answer, self.sides))
        assert many == one, name
        self.answered[name] += bool(one)
        return one

    async def deliver(self, chat: Conversation, token: str, dice: random.Random) -> None:
        await self.ask("claim", lambda side: side.claim(chat, token))
        if min(len(side.batches) for side in self.sides) < 4:
            return
        which, action = dice.randrange(-4, 0), dice.choice((*NackAction, NackAction.DEAD_LETTER))
        if dice.random() < 0.3:
            await self.ask("ack", lambda side: side.store.ack(*side.batches[which]))
        else:
            await self.ask("nack", lambda side: side.store.nack(*side.batches[which], action))
        await self.ask("batch", lambda side: side.store.batch(side.batches[which][0]))

    async def look(self, instance: str | None) -> None:
        await self.ask("listing", lambda side: side.listing(instance))
        await self.ask("letters", lambda side: side.letters(instance))
        await self.ask("stats", lambda side: side.store.stats(instance))

    async def recover(self) -> None:
        found = [await side.store.horizon(limit=500) for side in self.sides]
        assert len({(frozenset(one.instances), frozenset(one.expired)) for one in found}) == 1
        for over in found[0].expired:
            await self.ask("expire", lambda side, over=over: side.store.expire(over))

    async def tidy(self, change: str) -> None:
        """Requeue or delete the newest dead letter."""

        async def tidied(side: Side) -> Any:
            letters = await side.store.dead_letters(None, limit=1)
            return letters and await getattr(side.store, change)(letters[0].batch_id)

        await self.ask(change, tidied)

    async def stop(self) -> None:
        for side in self.sides:
            await side.store.stop()


async def test_many_partitions_answer_what_one_does(process: StoreProcess):
    twins, dice = Twins(process), random.Random(4)
    for step in range(80):
        twins.now += dice.choice((1, 7, 60, 110))
        chat, some = dice.choice(CHATS), dice.sample(CHATS, 4)
        added = [message(f"m{dice.randrange(60)}", one) for one in some for _ in range(2)]
        await twins.ask("add", lambda side, added=added: side.store.add(added))
        await twins.ask("due", lambda side, of=chat.instance: side.store.due(of, limit=3))
        await twins.deliver(chat, f"token {step}", dice)
        if step % 20 == 0:
            await twins.look(None)
            await twins.look(chat.instance)
            await twins.recover()
            await twins.tidy(dice.choice(("requeue", "delete")))
    assert {"claim", "ack", "nack", "batch", "listing", "letters", "requeue", "expire"} <= {
        name for name, count in twins.answered.items() if count
    }
    assert await twins.ask("repairs", lambda side: side.store.reconcile(limit=10_000)) == 0
    await twins.stop()


async def test_a_long_line_is_listed_soonest_first(process: StoreProcess):
    store = open_store(Address(process.url, timeout=30).dialer, 64)
    chats = [Conversation("bot", str(n)) for n in range(300)]
    for chat in chats:
        await store.add([message("m", chat, NOW)])
    for limit in (5, 100, 500):
        found = await store.due("bot", limit=limit)
        everyone = await store.due("bot", limit=1_000)
        assert found == everyone[:limit]
        assert len(everyone) == 300
    await store.stop()


async def test_a_batch_is_found_wherever_its_id_was_given_out(process: StoreProcess):
    store = open_store(Address(process.url, timeout=30).dialer, 64)
    await store.add([message("m", CHATS[0], NOW)])
    claimed = await Side(store).claim(CHATS[0], "token")
    assert claimed.batch
    batch_id = claimed.batch.info.batch_id
    assert partition_of(batch_id) == store.partition_of(CHATS[0])
    home = store.parts[store.partition_of(CHATS[0])]
    row = home.runner.keys.shared("idx")
    await home.runner.call("HSET", row, "9999-5-1", cid_of(CHATS[0]))
    with pytest.raises(NotFound):
        await store.ack("9999-6-1", "token")
    with pytest.raises(NotFound):
        await store.ack("9999-5-1", "token")  # found, and there is another batch in front
    await store.stop()


class Gated:
    """A way to a partition that a test can close."""

    def __init__(self, real: Dialer):
        self._real = real
        self.open_ = True
        self._connections: list[Any] = []

    async def open(self) -> Any:
        if not self.open_:
            raise ConnectionRefusedError("the node is away")
        connection = await self._real.open()
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        self.open_ = False
        for connection in self._connections:
            await connection.disconnect(nowait=True)


class Split:
    """A store of four partitions, the first of which can be away, and an engine over it."""

    def __init__(self, process: StoreProcess):
        address = Address(process.url, timeout=30)
        self.gate = Gated(address.dialer(0))
        self.store: PartitionedStore = open_store(
            lambda n: self.gate if n == 0 else address.dialer(n), 4, timeout=0.3
        )
        self.metrics = Metrics()
        self.engine = Engine(self.store, metrics=self.metrics, sweep_ms=100)
        chats = [Conversation("bot", str(n)) for n in range(20)]
        self.away = [chat for chat in chats if self.store.partition_of(chat) == 0]
        self.here = [chat for chat in chats if self.store.partition_of(chat) != 0]

    def subscribe(self) -> Subscriber:
        return self.engine.subscribe(
            "worker",
            instances=frozenset({"bot"}),
            max_in_flight=2,
            lease_ms=30_000,
            channel=DeliveryChannel.STREAM,
        )

    async def take(self, subscriber: Subscriber) -> Conversation:
        event = await subscriber.next(10)
        assert isinstance(event, Batch)
        await self.engine.ack(event.info.batch_id, event.token)
        return event.info.conversation


@pytest.fixture
async def split(process: StoreProcess) -> AsyncIterator[Split]:
    made = Split(process)
    await made.engine.start()
    yield made
    await made.engine.stop()
    await made.store.stop()


async def test_one_that_is_away_is_told_apart_and_the_others_deliver(split: Split):
    subscriber = split.subscribe()
    await split.engine.add([message("first", chat, SOON) for chat in split.away])
    await split.gate.close()
    with pytest.raises(StoreUnavailable):
        await split.engine.add([message("not in", split.away[0], SOON)])
    await split.engine.add([message("in", chat, SOON) for chat in split.here])
    got = {await split.take(subscriber) for _ in split.here}
    assert got == set(split.here)
    assert split.store.away is None
    with pytest.raises(StoreUnavailable) as caught:
        await split.store.add([message("mixed", chat, LATER) for chat in split.away + split.here])
    assert caught.value.maybe_done

    split.gate.open_ = True
    back = {await split.take(subscriber) for _ in split.away}
    assert back == set(split.away)


async def test_clocks_that_differ_by_minutes_make_nobody_early_late_or_busy(process: StoreProcess):
    split = Split(process)
    skews = {0: 0, 1: 300_000, 2: -300_000, 3: 600_000}

    def clock(skew: int) -> Callable[[], int]:
        epoch = asyncio.get_running_loop().time()
        return lambda: EPOCH_MS + skew + int(1_000 * (asyncio.get_running_loop().time() - epoch))

    for number, skew in skews.items():
        split.store.runners[number].clock = clock(skew)
    claims = Counter[Conversation]()
    claim = split.store.claim

    async def counted(conversation: Conversation, **options: Any) -> Claimed:
        claims[conversation] += 1
        return await claim(conversation, **options)

    split.store.claim = counted  # pyright: ignore[reportAttributeAccessIssue]
    await split.engine.start()
    subscriber, chats = split.subscribe(), split.away + split.here
    assert {split.store.partition_of(chat) for chat in chats} == skews.keys()
    for round_ in range(3):
        await split.engine.add([message(f"m{round_}", chat, SOON) for chat in chats])
        async with asyncio.timeout(5):
            assert {await split.take(subscriber) for _ in chats} == set(chats)
    assert max(claims.values()) <= 3 * 3
    await split.engine.stop()
    await split.store.stop()


async def test_a_sealed_name_has_the_partition_of_its_seal(process: StoreProcess):
    inner = open_store(Address(process.url, timeout=30).dialer, 4)
    store = SealedStore(inner, Seals(names=NameKey(bytes(32))))
    engine = Engine(store, metrics=Metrics(), sweep_ms=100)
    await engine.start()
    subscriber = engine.subscribe(
        "worker",
        instances=frozenset(),
        max_in_flight=8,
        lease_ms=30_000,
        channel=DeliveryChannel.STREAM,
    )
    await engine.add([message("m", chat, SOON) for chat in CHATS])
    got: set[Conversation] = set()
    for _ in CHATS:
        batch = await subscriber.next(10)
        assert isinstance(batch, Batch)
        got.add(batch.info.conversation)
        await engine.ack(batch.info.batch_id, batch.token)
    assert got == set(CHATS)
    assert {store.partition_of(chat) for chat in CHATS} == set(range(4))
    await engine.stop()
    await inner.stop()


class SomeCall:
    """A call without a deadline."""

    metadata: ClassVar[dict[str, str]] = {}
    access = EVERYTHING

    async def in_time(self, work: Awaitable[Any]) -> Any:
        return await work


@pytest.mark.parametrize("fallback", ["error", "immediate"])
async def test_an_entry_for_one_that_is_away_fails_alone(split: Split, fallback: str):
    rules = IntakeRules(lambda _: SOON, lambda _: fallback, lambda _: None, 1_000)
    intake = Intake(split.engine, split.metrics, rules)
    subscriber = split.subscribe()
    await split.gate.close()
    chats = [chat for pair in zip(split.away, split.here, strict=False) for chat in pair]
    requests = [
        rpc.AddMessageRequest(
            instance=chat.instance,
            conversation=chat.name,
            message=pb.Message(id=f"m{n}", text="hello"),
        )
        for n, chat in enumerate(chats * 2)
    ]
    answers = await intake.add(requests, cast(Call, SomeCall()))
    for chat, answer in zip(chats * 2, answers, strict=True):
        taken = isinstance(answer, rpc.AddMessageResponse) and answer.success
        assert taken == (chat in split.here)
        assert taken or fallback == "error" or isinstance(answer, rpc.AddMessageResponse)
    assert [a.message_id for a in answers if isinstance(a, rpc.AddMessageResponse)] == [
        f"m{n}" for n, chat in enumerate(chats * 2) if chat in split.here or fallback != "error"
    ]
    got = {await split.take(subscriber) for _ in chats[1::2]}
    assert got == set(chats[1::2])
