"""What a message costs the store: numbers that do not depend on the machine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.store.conftest import AnyStore, Real
from tidegate_server.core.model import Conversation, DeliveryChannel, NewMessage, WindowPolicy
from tidegate_server.core.quota import Quota
from tidegate_server.store.base import Added
from tidegate_server.store.keys import Keys
from tidegate_server.store.redis import Rules

RUN = {"time": 1, "hincrby": 5, "zadd": 1}
"""What a run of ADD costs beside its messages: clock, sequence, four gauges, the instance."""
FIRST = {"hmget": 2, "hset": 2, "pexpire": 1, "rpush": 1, "zadd": 1}
NEXT = {"hmget": 2, "hset": 2, "rpush": 1}


def message(chat: str, name: str = "m1", size: int = 200) -> NewMessage:
    return NewMessage(Conversation("bot", chat), name, b"x" * size, size, WindowPolicy())


async def costs(real: Real, work: Callable[[], Awaitable[Any]]) -> dict[str, int]:
    """The commands that the store ran, those inside of scripts too."""
    await real.client.config_resetstat()
    await work()
    stats: dict[str, Any] = await real.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    ours = ("config|resetstat", "config", "info")
    return {name: count for name, count in calls.items() if name not in ours}


def times(count: int, *costs: dict[str, int]) -> dict[str, int]:
    names = {name: None for cost in costs for name in cost}
    return {name: count * sum(cost.get(name, 0) for cost in costs) for name in names}


async def connected(real: Real, rules: Rules | None = None) -> AnyStore:
    store = real.store(rules=rules)
    await store.add([message("the first of all")])
    return store


def plus(*costs: dict[str, int]) -> dict[str, int]:
    return times(1, *costs)


async def test_a_message_that_opens_a_buffer_costs_seven_commands(real: Real):
    store = await connected(real)
    found = await costs(real, lambda: store.add([message("ann")]))
    assert found == plus(RUN, FIRST, {"evalsha": 1})


async def test_the_second_message_costs_what_the_two_hundredth_does(real: Real):
    store = await connected(real)
    await store.add([message("ann")])
    run = {"time": 1, "hincrby": 3}
    for number in range(2, 201):
        found = await costs(real, lambda name=f"m{number}": store.add([message("ann", name)]))
        if number in (2, 3, 99, 102, 200):
            assert found == plus(run, NEXT, {"evalsha": 1}), number


async def test_what_is_added_together_is_one_run_and_one_round_trip(real: Real):
    store = await connected(real)
    before = real.metrics.store_round_trips

    async def add() -> None:
        await asyncio.gather(*(store.add([message(f"chat {n}")]) for n in range(256)))

    found = await costs(real, add)
    assert real.metrics.store_round_trips == before + 1
    assert found == plus(RUN, times(256, FIRST), {"evalsha": 1})


async def test_a_burst_of_one_conversation_costs_what_one_message_does(real: Real):
    store = await connected(real)
    burst = [message("ann", f"m{n}") for n in range(50)]
    assert await costs(real, lambda: store.add(burst)) == plus(RUN, FIRST, {"evalsha": 1})


async def test_a_limit_of_the_instance_costs_a_read_and_so_does_one_of_the_store(real: Real):
    quota = Quota(9, 9_000, instance_messages=9, store_buffers=9)
    store = await connected(real, Rules(quota=lambda _: quota))
    found = await costs(real, lambda: store.add([message("ann")]))
    assert found == plus(RUN, FIRST, {"evalsha": 1, "hmget": 2})


async def test_a_refused_message_leaves_no_key_behind(real: Real):
    store = await connected(real, Rules(quota=lambda _: Quota(store_buffers=1)))
    before = await real.client.keys()
    found = await costs(real, lambda: store.add([message("ann")]))
    assert sorted(await real.client.keys()) == sorted(before)
    assert found == {"evalsha": 1, "time": 1, "hincrby": 1, "hmget": 3}


async def test_ids_are_told_once_how_long_they_live(real: Real):
    store = await connected(real, Rules(deduplication_ms=60_000))
    ann = Conversation("bot", "ann")
    ids, _ = Keys("tg", store.partition_of(ann)).seen(ann)
    await store.add([message("ann")])
    assert 60_000 < await real.client.pttl(ids) <= 120_000
    await real.client.pexpire(ids, 90_000)
    await store.add([message("ann", "m2"), message("ann", "m1")])
    assert await real.client.pttl(ids) <= 90_000


async def test_a_claim_and_an_ack_of_a_small_batch_have_their_price(real: Real):
    store, ann = await connected(real), Conversation("bot", "ann")
    await store.add([message("ann", f"m{n}") for n in range(3)])
    await store.flush(ann)
    claim = await costs(
        real,
        lambda: store.claim(
            ann, token="t", lease_ms=1_000, subscriber_id="s", channel=DeliveryChannel.STREAM
        ),
    )
    current = (await store.status(ann)).current_batch
    assert current
    ack = await costs(real, lambda: store.ack(current.batch_id, "t"))
    assert (sum(claim.values()), sum(ack.values())) == (25, 22)


async def test_an_open_buffer_with_one_message_takes_less_than_a_kilobyte(real: Real):
    store = await connected(real)
    await store.add([message("4915112345678", "018f3f1e-2b7c-7d3e-9c60-0123456789ab")])
    keys = [f"tg:{{p0}}:{kind}:bot/4915112345678" for kind in "cmd"]
    sizes = [await real.client.memory_usage(key) or 0 for key in keys]
    print(dict(zip(keys, sizes, strict=True)), sum(sizes))
    assert sum(sizes) < 1024


async def test_everyone_who_adds_at_the_same_time_is_told_the_buffer(real: Real):
    store = await connected(real)
    answers = await asyncio.gather(*(store.add([message("ann", f"m{n}")]) for n in range(3)))
    for (added,) in answers:
        assert isinstance(added, Added)
        assert added.buffer
        assert added.buffer.message_count == 3
