"""What the store on a real server does beyond the agreement with the reference store."""

import asyncio

import pytest

from tests.store.conftest import Real
from tests.support.stores import eventually
from tidegate_server.core.model import (
    BatchState,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
    WindowPolicy,
)
from tidegate_server.errors import StartupError, StoreFull, StoreUnavailable
from tidegate_server.store.base import Added, Claimed
from tidegate_server.store.connect import Address, prepare
from tidegate_server.store.redis import RedisStore
from tidegate_server.store.signals import Notice, NoticeKind

ANN = Conversation("bot", "ann")
NOW = WindowPolicy(delay_ms=0, grace_ms=0)
LATER = WindowPolicy(delay_ms=3_600_000, grace_ms=0, max_wait_ms=3_600_000)


def message(
    name: str, *, chat: Conversation = ANN, policy: WindowPolicy = NOW, size: int = 4
) -> NewMessage:
    return NewMessage(chat, name, b"x" * size, size, policy)


async def claim(store: RedisStore, chat: Conversation = ANN, token: str = "token") -> Claimed:
    return await store.claim(
        chat, token=token, lease_ms=60_000, subscriber_id="sub", channel=DeliveryChannel.PULL
    )


async def test_adds_that_are_under_way_together_share_a_round_trip(real: Real):
    store = real.store()
    await store.add([message("first")])
    before = real.metrics.store_round_trips
    await asyncio.gather(*(store.add([message(f"m{n}")]) for n in range(300)))
    assert real.metrics.store_round_trips - before <= 3


async def test_messages_keep_the_order_of_the_calls(real: Real):
    store = real.store()
    names = [f"m{n}" for n in range(90)]
    await asyncio.gather(*(store.add([message(name)]) for name in names))
    claimed = await claim(store)
    assert claimed.batch
    assert [m.id for m in claimed.batch.messages] == names


async def test_a_flushed_script_cache_is_not_noticed(real: Real):
    store = real.store()
    await store.add([message("one")])
    await real.client.script_flush()
    added = await asyncio.gather(*(store.add([message(f"m{n}")]) for n in range(20)))
    assert all(isinstance(one, Added) for (one,) in added)
    await real.client.script_flush()
    assert (await claim(store)).batch


async def test_an_answer_that_got_lost_adds_nothing_twice(real: Real):
    store = real.store()
    await store.add([message("zero", policy=LATER)])

    async def cut() -> None:
        for _ in range(15):
            await real.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.01)

    async def write() -> None:
        for n in range(200):
            await store.add([message(f"m{n}", policy=LATER)])

    await asyncio.gather(cut(), write())
    await store.flush(ANN)
    ids: list[str] = []
    while (claimed := await claim(store, token=f"t{len(ids)}")).batch:
        ids += [m.id for m in claimed.batch.messages]
        await store.ack(claimed.batch.info.batch_id, claimed.batch.token)
    assert ids == ["zero", *(f"m{n}" for n in range(200))]


async def test_a_store_that_hangs_is_reported_in_time_and_comes_back(real: Real):
    store = real.store(timeout=0.3)
    await store.add([message("before")])
    real.process.pause()
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store.add([message("meanwhile")])
        assert caught.value.maybe_done
    finally:
        real.process.resume()

    async def takes() -> bool:
        try:
            return bool(await store.add([message("after")]))
        except StoreUnavailable:
            return False

    await eventually(takes)
    assert store.away is None


async def test_a_damaged_message_makes_its_batch_a_dead_letter_and_the_chat_goes_on(real: Real):
    store = real.store()
    await store.add([message("good"), message("bad")])
    row = store.runner.keys.of("m", "bot/ann")
    await real.client.lset(row, 1, "no message at all")  # pyright: ignore[reportGeneralTypeIssues]
    assert (await claim(store)).batch is None
    (letter,) = await store.dead_letters(None, limit=5)
    assert (letter.state, letter.last_error_reason) == (BatchState.DEAD_LETTERED, "CORRUPT")
    details = await store.batch(letter.batch_id)
    assert [m.id for m in details.messages] == ["good"]
    await store.add([message("next")])
    claimed = await claim(store, token="other")
    assert claimed.batch
    assert [m.id for m in claimed.batch.messages] == ["next"]


async def test_servers_hear_each_other_and_not_themselves(real: Real):
    one, other = real.store(), real.store()
    heard: list[tuple[str, Notice]] = []
    one.listen(lambda notice: heard.append(("one", notice)))
    other.listen(lambda notice: heard.append(("other", notice)))
    channel = one.runner.keys.notices

    async def both_listen() -> bool:
        found = await real.client.pubsub_numsub(channel)  # pyright: ignore[reportGeneralTypeIssues]
        return found[0][1] == 2

    await eventually(both_listen)
    await real.client.publish(channel, "no notice at all")
    notice = Notice(NoticeKind.DUE, Conversation("bot", "ünn/{x}"), at_ms=5)
    await one.tell([notice])
    await eventually(lambda: bool(heard))
    assert heard == [("other", notice)]


@pytest.mark.parametrize(
    "damage",
    ["in no index", "in both indexes", "leased without a batch", "no meta", "far ahead", "no id"],
)
async def test_planted_damage_is_repaired_and_the_messages_come(real: Real, damage: str):
    store, first = real.store(), None
    keys = store.runner.keys
    await store.add([message("m", policy=NOW)])
    due, lease, cid = keys.instance("due", "bot"), keys.shared("lease"), "bot/ann"
    client = real.client
    if damage == "in no index":
        await client.zrem(due, cid)
    elif damage == "leased without a batch":
        await client.zrem(due, cid)
        await client.zadd(lease, {cid: 1})
    elif damage == "no meta":
        await client.delete(keys.of("c", cid))
        await client.zrem(due, cid)
    elif damage == "far ahead":
        await client.zadd(due, {cid: 9e12})
    else:
        first = await claim(store, token="first")
        assert first.batch
        if damage == "in both indexes":
            await client.zadd(due, {cid: 5})
        else:
            await client.delete(keys.shared("idx"))
    assert await store.reconcile(limit=1_000) >= 1
    assert await store.reconcile(limit=1_000) == 0
    if first and first.batch:
        settled = await store.ack(first.batch.info.batch_id, "first")
        assert settled.state is BatchState.COMPLETED
    else:
        policy_end = (await store.due("bot", limit=1))[0].due_ms
        later = real.store(clock=lambda: policy_end)
        claimed = await claim(later)
        assert claimed.batch
        assert [m.id for m in claimed.batch.messages] == ["m"]


async def test_another_layout_is_refused_with_a_sentence(real: Real):
    address = Address(real.process.url)
    await prepare(address, prefix="tg", wait=1)
    await prepare(address, prefix="tg", wait=1)
    await real.client.hset("tg:layout", "partitions", "64")  # pyright: ignore[reportGeneralTypeIssues]
    with pytest.raises(StartupError, match="another TIDEGATE_STORE_PREFIX"):
        await prepare(address, prefix="tg", wait=1)


async def test_large_batches_are_cut_below_what_a_client_takes(real: Real):
    store = real.store()
    policy = WindowPolicy(delay_ms=0, grace_ms=0, max_messages=500, max_bytes=3 << 20)
    for n in range(9):
        await store.add([message(f"m{n}", policy=policy, size=600_000)])
    sizes: list[int] = []
    while (claimed := await claim(store, token=f"t{len(sizes)}")).batch:
        sizes.append(sum(len(m.body) for m in claimed.batch.messages))
        await store.ack(claimed.batch.info.batch_id, claimed.batch.token)
    assert sum(sizes) == 9 * 600_000
    assert max(sizes) <= 3 << 20


async def test_a_full_store_refuses_what_would_grow_it_and_lets_all_else_through(real: Real):
    store = real.store()
    chats = [
        Conversation("bot", name) for name in ("held", "erased", "discarded", "dead", "leased")
    ]
    for chat in chats:
        await store.add([message(name, chat=chat, policy=LATER) for name in ("one", "two")])
    held, erased, discarded, dead, leased = chats
    tokens: dict[Conversation, str] = {}
    for chat in (dead, leased):
        await store.flush(chat)
        claimed = await claim(store, chat)
        assert claimed.batch
        tokens[chat] = claimed.batch.info.batch_id
    await store.nack(tokens[dead], "token", NackAction.DEAD_LETTER)
    await real.client.config_set("maxmemory", "1")

    with pytest.raises(StoreFull):
        await store.add([message("three", chat=held)])
    with pytest.raises(StoreFull):
        await store.amend(held, "one", body=b"other", payload_bytes=5)
    assert (await store.hold(held, 60_000)).held
    assert (await store.remove(held, "one")).buffer
    assert (await store.flush(held)).flushed
    assert (await store.extend(tokens[leased], "token", 60_000)).lease_expires_at_ms
    assert await store.discard(discarded) == 2
    assert (await store.erase(erased)).messages == 2
    assert (await store.requeue(tokens[dead])).applied
    ids: list[str] = []
    for chat in (held, dead):
        claimed = await claim(store, chat, token="again")
        assert claimed.batch
        ids += [m.id for m in claimed.batch.messages]
        await store.ack(claimed.batch.info.batch_id, "again")
    assert ids == ["two", "one", "two"]
    await store.nack(tokens[leased], "token", NackAction.RELEASE)
    assert await store.reconcile(limit=1_000) == 0
    stats = await store.stats()
    assert (stats.buffered_messages, stats.delivering_batches, stats.retrying_batches) == (0, 0, 1)
