"""A store of every kind of live data moves, breaks off anywhere, goes on, and nothing is amiss."""

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from tests.support.audit import contradictions
from tests.support.stores import StoreProcess
from tidegate_server.core.model import (
    AddOutcome,
    BatchState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import NotFound, StartupError
from tidegate_server.metrics import Metrics
from tidegate_server.store import layout
from tidegate_server.store.base import Added, Claimed, Store
from tidegate_server.store.connect import Address, prepare
from tidegate_server.store.keys import Keys
from tidegate_server.store.move import End, MoveRefused, Progress, move
from tidegate_server.store.redis import PartitionedStore, RedisStore, Rules, new_store
from tidegate_server.store.redis.runner import Runner

AnyStore = RedisStore | PartitionedStore
NOW = WindowPolicy(delay_ms=0, grace_ms=0, max_messages=2)
LATER = WindowPolicy(delay_ms=3_600_000, grace_ms=0, max_wait_ms=3_600_000)
HOUR_MS = 3_600_000
PLENTY = 1_000_000
_tokens = itertools.count()


def chat(name: str) -> Conversation:
    return Conversation("bot", name)


def message(name: str, of: str, policy: WindowPolicy = NOW) -> NewMessage:
    return NewMessage(chat(of), name, name.encode(), len(name), policy)


async def claim(store: Store, of: str, *, lease_ms: int = HOUR_MS) -> Claimed:
    return await store.claim(
        chat(of),
        token=f"token {next(_tokens)}",
        lease_ms=lease_ms,
        subscriber_id="sub",
        channel=DeliveryChannel.PULL,
    )


async def claimed(store: Store, of: str) -> tuple[str, str]:
    """A batch and its token."""
    answer = await claim(store, of)
    assert answer.batch
    return answer.batch.info.batch_id, answer.batch.token


@asynccontextmanager
async def opened(end: End) -> AsyncGenerator[AnyStore]:
    """A server's view of a store, as a server gets it."""
    info = await prepare(end.address, prefix=end.prefix, wait=0)
    store = new_store(
        end.address.dialer,
        partitions=info.partitions,
        counters=Metrics(),
        prefix=end.prefix,
        timeout=30,
        rules=Rules(retry=RetryPolicy(retries=3, base_ms=1)),
    )
    for runner in store.runners:
        runner.pipeline.start()
    try:
        yield store
    finally:
        await store.stop()


class Life:
    """One of every kind of live data, and what must come of it after a move."""

    def __init__(self) -> None:
        self.leased = self.retried = self.done = self.dead = self.gone = ("", "")

    async def begin(self, store: Store) -> None:
        await store.add([message(f"o{n}", "open", LATER) for n in range(3)])
        await store.add([message(f"d{n}", "due") for n in range(5)])
        for name in ("leased", "retried", "done", "dead", "gone", "again"):
            await store.add([message(f"{name}{n}", name) for n in range(2)])
        self.leased = await claimed(store, "leased")
        await store.add([message("behind", "leased", LATER)])
        self.retried = await claimed(store, "retried")
        await store.nack(*self.retried, NackAction.RETRY, retry_delay_ms=1)
        self.done = await claimed(store, "done")
        await store.ack(*self.done)
        self.dead = await claimed(store, "dead")
        await store.nack(*self.dead, NackAction.DEAD_LETTER, reason="NO", message="never")
        self.gone = await claimed(store, "gone")
        await store.nack(*self.gone, NackAction.DEAD_LETTER)
        assert await store.delete(self.gone[0])
        again = await claimed(store, "again")
        await store.nack(*again, NackAction.REBUFFER)
        await store.add([message("taken out", "erased", LATER)])
        await store.remove(chat("erased"), "taken out")

    async def goes_on(self, store: Store) -> None:
        """Everything is still what it was, and comes once and in order."""
        stats = await store.stats()
        assert (stats.open_buffers, stats.delivering_batches) == (4, 1)
        assert (stats.retrying_batches, stats.dead_letters) == (1, 1)
        assert replace(await store.stats("bot"), oldest_due_age_ms=0) == replace(
            stats, oldest_due_age_ms=0
        )
        repeat = [message("o1", "open"), message("done0", "done"), message("taken out", "erased")]
        answers = await store.add(repeat)
        assert all(one.outcome is AddOutcome.DUPLICATE for one in answers if isinstance(one, Added))
        assert len([one for one in answers if isinstance(one, Added)]) == 3

        assert (await store.ack(*self.leased)).state is BatchState.COMPLETED
        assert await self.ids(store, "leased") == ["behind"]
        assert (await store.ack(*self.done)).already
        assert [m.id for m in (await store.batch(self.done[0])).messages] == ["done0", "done1"]
        assert (await store.batch(self.gone[0])).info.state is BatchState.DISCARDED
        details = await store.batch(self.retried[0])
        assert [a.error_reason for a in details.attempts] == ["NACKED"]
        again = await claim(store, "retried")
        assert again.batch
        assert (again.batch.info.batch_id, again.batch.info.attempt) == (self.retried[0], 2)

        (letter,) = await store.dead_letters(None, limit=5)
        assert (letter.batch_id, letter.last_error_message) == (self.dead[0], "never")
        tracked = await store.track(chat("dead"), "dead1")
        assert tracked.batch
        assert tracked.batch.batch_id == self.dead[0]
        assert (await store.requeue(self.dead[0])).applied
        assert await self.ids(store, "dead") == ["dead0", "dead1"]
        await store.add([message("d5", "due")])
        assert await self.ids(store, "due") == [f"d{n}" for n in range(6)]
        assert await self.ids(store, "open") == ["o0", "o1", "o2"]
        assert await self.ids(store, "again") == ["again0", "again1"]
        with pytest.raises(NotFound):
            await store.ack("5-999-1", "nobody's")
        assert await store.reconcile(limit=10_000) == 0

    async def ids(self, store: Store, of: str) -> list[str]:
        """What comes of a conversation till nothing is left; batch ids never come again."""
        await store.flush(chat(of))
        found: list[str] = []
        while (answer := await claim(store, of)).batch:
            batch = answer.batch
            assert batch.info.batch_id not in {self.leased[0], self.done[0], self.dead[0]}
            found += [m.id for m in batch.messages]
            await store.ack(batch.info.batch_id, batch.token)
        return found


def sound(end: End, partitions: int) -> None:
    """No key of the store contradicts another."""
    with BlockingRedis.from_url(end.address.url) as client:
        for number in range(partitions):
            assert contradictions(client, Keys(end.prefix, number)) == []


def names(end: End) -> set[str]:
    with BlockingRedis.from_url(end.address.url) as client:
        return {key.decode() for key in client.scan_iter(f"{end.prefix}:*")}


@pytest.fixture
async def ends() -> AsyncIterator[Sequence[End]]:
    async with StoreProcess() as one, StoreProcess() as other:
        yield [
            End(Address(one.url, timeout=30)),
            End(Address(other.url, timeout=30)),
            End(Address(one.url, timeout=30), "back"),
        ]


async def test_everything_comes_along_to_many_partitions_and_back(ends: Sequence[End]):
    life, steps = Life(), list[Progress]()
    async with opened(ends[0]) as store:
        await life.begin(store)
    moved = await move(ends[0], ends[1], partitions=64, progress=steps.append)
    assert moved.stats.open_buffers == 4
    assert steps[-1].done == steps[-1].total > 10
    assert names(ends[0]) == {"tg:layout"}
    sound(ends[1], 64)
    await move(ends[1], ends[2], partitions=1)
    sound(ends[2], 1)
    async with opened(ends[2]) as store:
        await life.goes_on(store)
    sound(ends[2], 1)


async def test_many_partitions_serve_what_one_had(ends: Sequence[End]):
    life = Life()
    async with opened(ends[0]) as store:
        await life.begin(store)
    await move(ends[0], ends[1], partitions=64)
    async with opened(ends[1]) as store:
        assert store.partitions == 64
        await life.goes_on(store)
    sound(ends[1], 64)


async def test_lives_go_on_and_end(ends: Sequence[End]):
    async with opened(ends[0]) as store:
        await Life().begin(store)
    with BlockingRedis.from_url(ends[0].address.url) as client:
        before: dict[str, Any] = {key: client.pttl(key) for key in names(ends[0])}
    await move(ends[0], ends[1], partitions=1)
    with BlockingRedis.from_url(ends[1].address.url) as client:
        after: dict[str, Any] = {key: client.pttl(key) for key in names(ends[1])}
    assert before.keys() == after.keys()
    for key, ttl in before.items():
        assert (after[key] == -1) if ttl == -1 else (0 < after[key] <= ttl)


class Killed(BaseException):
    """The move's process is no more: nothing that it still wanted to do happens."""


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many commands a move may still send; none is sent after that."""
    left = {"commands": PLENTY}
    call, execute = Runner.call, Redis.execute_command

    def spend() -> None:
        left["commands"] -= 1
        if left["commands"] < 0:
            raise Killed

    async def counted_call(self: Runner, *args: Any) -> Any:
        spend()
        return await call(self, *args)

    async def counted_execute(self: Redis, *args: Any, **options: Any) -> Any:
        spend()
        return await execute(self, *args, **options)

    monkeypatch.setattr(Runner, "call", counted_call)
    monkeypatch.setattr(Redis, "execute_command", counted_execute)
    return left


async def usable(end: End) -> bool:
    """Whether a server would start there and find a store."""
    async with Redis.from_url(end.address.url) as client:
        found = await layout.read(client, end.prefix)
    return found.exists and not found.why_not(end.prefix)


async def test_broken_off_anywhere_and_repeated_it_comes_to_the_same_end(
    ends: Sequence[End], lives: dict[str, int]
):
    life = Life()
    async with opened(ends[0]) as store:
        await life.begin(store)
    source, goal, other = ends
    await move(source, goal, partitions=3)
    source, goal, other = goal, other, source
    spent = PLENTY - lives["commands"]
    for allowed in range(0, spent, 3):
        lives["commands"] = allowed
        with suppress(Killed):
            await move(source, goal, partitions=3)
        lives["commands"] = PLENTY
        assert not (await usable(source) and await usable(goal))
        await move(source, goal, partitions=3)
        sound(goal, 3)
        assert names(source) == {f"{source.prefix}:layout"}
        source, goal, other = goal, other, source
    async with opened(source) as store:
        await life.goes_on(store)
    sound(source, 3)


async def test_it_is_refused_while_a_server_listens_at_either_end(ends: Sequence[End]):
    async with opened(ends[0]) as store:
        await store.add([message("m", "open", LATER)])
    for end in ends[:2]:
        async with Redis.from_url(end.address.url) as client, client.pubsub() as listener:
            await listener.subscribe("tg:notices")
            assert await listener.get_message(timeout=5)
            with pytest.raises(MoveRefused, match=r"1 of Tidegate's servers use .*stop them"):
                await move(ends[0], ends[1], partitions=1)
    assert await usable(ends[0])
    await move(ends[0], ends[1], partitions=1)


async def test_ends_that_do_not_fit_are_refused_and_nothing_changes(ends: Sequence[End]):
    source, goal, other = ends
    with pytest.raises(MoveRefused, match="there is no store of Tidegate"):
        await move(source, goal, partitions=1)
    async with opened(source) as store:
        await store.add([message("m", "open", LATER)])
    with pytest.raises(MoveRefused, match="the same keys"):
        await move(source, End(source.address), partitions=64)
    async with opened(goal) as store:
        await store.add([message("m", "open", LATER)])
    with pytest.raises(MoveRefused, match="in use already"):
        await move(source, goal, partitions=1)
    assert await usable(source)
    assert await usable(goal)
    await move(source, other, partitions=64)
    with pytest.raises(MoveRefused, match="have moved to"):
        await move(source, goal, partitions=1)


async def test_a_move_that_has_begun_goes_on_to_the_same_place_only(
    ends: Sequence[End], lives: dict[str, int]
):
    source, goal, other = ends
    async with opened(source) as store:
        await Life().begin(store)
    lives["commands"] = 30
    with suppress(Killed):
        await move(source, goal, partitions=3)
    lives["commands"] = PLENTY
    with pytest.raises(MoveRefused, match="has begun; repeat that one"):
        await move(source, other, partitions=3)
    with pytest.raises(MoveRefused, match="--to-partitions 3"):
        await move(source, goal, partitions=1)
    for end, why in ((source, "are about to move"), (goal, "are about to come")):
        with pytest.raises(StartupError, match=why):
            await prepare(end.address, prefix=end.prefix, wait=0)
    await move(source, goal, partitions=3)
    with pytest.raises(StartupError, match=r"have moved to .* set TIDEGATE_STORE_URL"):
        await prepare(source.address, prefix=source.prefix, wait=0)
