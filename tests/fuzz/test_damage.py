"""Keys of one conversation are damaged at random: it comes to an end, and nobody else notices."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests.fuzz.dice import Dice
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate_server.core.model import (
    Batch,
    Conversation,
    DeliveryChannel,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.stream import Subscriber
from tidegate_server.store.connect import Address
from tidegate_server.store.redis import RedisStore, Rules

SOON = WindowPolicy(delay_ms=30, grace_ms=0)
LEASE_MS = 100
TIMES = 15


@asynccontextmanager
async def engine(process: StoreProcess) -> AsyncGenerator[Engine]:
    metrics = Metrics()
    store = RedisStore(
        Address(process.url, timeout=5).dialer(),
        counters=metrics,
        timeout=5,
        rules=Rules(retry=RetryPolicy(base_ms=10, max_expiries=2), default_policy=SOON),
    )
    store.start()
    running = Engine(store, metrics=metrics, sweep_ms=50)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
        await store.stop()


def message(name: str, number: int) -> NewMessage:
    return NewMessage(Conversation("bot", name), f"m{number}", b"hello", 5, SOON)


class Reader:
    """A subscriber that acknowledges what it can, but leaves every batch's first lease alone."""

    def __init__(self, running: Engine):
        self.names: set[str] = set()
        self._engine = running

    async def read(self, subscriber: Subscriber) -> None:
        while True:
            event = await subscriber.next(1)
            if isinstance(event, Batch):
                await self._take(event)

    async def _take(self, batch: Batch) -> None:
        name = batch.info.conversation.name
        if name.startswith("bad") and batch.info.attempt == 1:
            return
        try:
            await self._engine.ack(batch.info.batch_id, batch.token)
        except TidegateError:
            return
        self.names.add(name)


async def damage(client: Redis, name: str, dice: Dice) -> str:
    """Spoil something of a conversation; what it was."""
    call: Any = client.execute_command
    cid, base = f"bot/{name}", "tg:{p0}:"
    key = base + dice.pick([f"c:{cid}", f"m:{cid}", f"a:{cid}", "lease", "due:bot", "inst", "idx"])
    kind = (await call("TYPE", key)).decode()
    own = key.endswith(cid)
    junk = dice.pick((b"\xff\xfe", b"", b"x", b"1 2 3", b"-1", b"99999999999999999999", b"{}"))
    if own and dice.below(4) == 0:
        await call("DEL", key)
        if dice.below(2):
            await call("SET", key, junk)
        return f"{key} is gone, or no {kind}"
    match kind:
        case "hash":
            fields: list[bytes] = await call("HKEYS", key) if own else [b"0-1-1", b"0-2-2"]
            field = dice.pick(sorted(fields))
            await (
                call("HDEL", key, field) if dice.below(3) == 0 else call("HSET", key, field, junk)
            )
            return f"{key} {field!r} {junk!r}"
        case "list":
            await call("LSET", key, -1, junk)
        case "zset":
            member = dice.pick((cid.encode(), b"\xff\xfe", b"noslash", b"bot/ghost"))
            # A lease that is too long is cut to two hours, which are too long for a test.
            late = () if member == cid.encode() and key.endswith("lease") else (b"inf", b"1e17")
            score = dice.pick((b"0", b"1", b"-inf", *late))
            await call("ZADD", key, score, member)
            return f"{key} {member!r} {score!r}"
        case _:
            pass
    return f"{key} {junk!r}"


# The newest, and another kind with other words for what a script fails with.
@pytest.mark.parametrize("binary", [pytest.param(path, id=name) for name, path in binaries()[:2]])
async def test_a_damaged_conversation_comes_to_an_end_and_nobody_else_notices(binary: Path):
    seed = random.getrandbits(32)
    chance = random.Random(seed)
    told: list[str] = [f"seed {seed}"]
    with capture_logs() as logs:
        async with (
            StoreProcess(binary) as process,
            engine(process) as running,
            process.client() as client,
        ):
            await _spoil_and_read(running, client, chance, told)
    print("\n".join(told))
    assert not [line for line in logs if line.get("exc_info")], told
    assert not [line for line in logs if "rest until" in line["event"]], told


async def _spoil_and_read(
    running: Engine, client: Redis, chance: random.Random, told: list[str]
) -> None:
    subscriber = running.subscribe(
        *("reader",),
        instances=frozenset(),
        max_in_flight=100,
        lease_ms=LEASE_MS,
        channel=DeliveryChannel.STREAM,
    )
    reader = Reader(running)
    reading = asyncio.create_task(reader.read(subscriber))
    for n in range(TIMES):
        await running.add([message(f"bad-{n}", 1), message(f"bad-{n}", 2)])
        await asyncio.sleep(chance.choice((0, 0.05)))
        told.append(await damage(client, f"bad-{n}", Dice(chance.randbytes(20))))
        await running.add([message(f"good-{n}", 1)])

    def good() -> bool:
        return {f"good-{n}" for n in range(TIMES)} <= reader.names

    async def at_rest() -> bool:
        await running._recoverer.reconcile()
        return not [key async for key in client.scan_iter("tg:{p0}:m:*")]

    await eventually(good)
    await eventually(at_rest)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
