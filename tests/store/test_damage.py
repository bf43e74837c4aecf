"""Keys that no script has written: one conversation is repaired, and the others do not notice."""

import asyncio

import pytest

from tests.store.conftest import AnyStore, Real
from tidegate_server.core.model import Conversation, DeliveryChannel, NewMessage, WindowPolicy
from tidegate_server.errors import StoreDamaged
from tidegate_server.store.base import Claimed

ANN, BEN = Conversation("bot", "ann"), Conversation("bot", "ben")
NOW = WindowPolicy(delay_ms=0, grace_ms=0)
META, ROW = "tg:{p0}:c:bot/ann", "tg:{p0}:m:bot/ann"


def message(name: str, chat: Conversation = ANN) -> NewMessage:
    return NewMessage(chat, name, b"x", 1, NOW)


async def claim(store: AnyStore, chat: Conversation = ANN, token: str = "token") -> Claimed:
    return await store.claim(
        chat, token=token, lease_ms=60_000, subscriber_id="sub", channel=DeliveryChannel.PULL
    )


async def ids(store: AnyStore, chat: Conversation = ANN) -> list[str]:
    """What is delivered next, as soon as it is due."""
    while True:
        claimed = await claim(store, chat)
        if claimed.batch:
            return [message.id for message in claimed.batch.messages]
        await store.flush(chat)


@pytest.mark.parametrize(
    "spoil",
    [
        ("HSET", META, "window", "x"),
        ("HSET", META, "buffer", b"\xff"),
        ("HDEL", META, "window"),
        ("HSET", META, "id", ""),
        ("SET", META, "no hash"),
        ("DEL", META),
    ],
)
async def test_messages_survive_the_loss_of_what_is_known_of_them(
    real: Real, spoil: tuple[str | bytes, ...]
):
    store = real.store()
    await store.add([message("m1"), message("m2")])
    await real.client.execute_command(*spoil)
    assert await ids(store) == ["m1", "m2"]
    assert await store.reconcile(limit=1000) > 0
    assert await store.reconcile(limit=1000) == 0


async def test_a_batch_that_is_damaged_comes_again_as_another_one(real: Real):
    store = real.store()
    await store.add([message("m1"), message("m2")])
    first = (await claim(store)).batch
    assert first
    await real.client.execute_command("HSET", META, "batch", "x")
    await store.expire(ANN)
    await store.reconcile(limit=1000)
    assert await ids(store) == ["m1", "m2"]


async def test_a_damaged_conversation_does_not_spoil_the_adds_of_others(real: Real):
    store = real.store()
    await store.add([message("m1")])
    await real.client.execute_command("HSET", META, "window", "x")
    await asyncio.gather(
        store.add([message("b1", BEN)]), store.add([message("m2")]), store.add([message("b2", BEN)])
    )
    assert await ids(store, BEN) == ["b1", "b2"]
    assert await ids(store) == ["m1", "m2"]


async def test_members_of_an_index_that_name_nothing_are_taken_out(real: Real):
    store = real.store()
    await store.add([message("m1")])
    strays = (1, b"\xff\xfe", 1, "noslash")
    await real.client.execute_command("ZADD", "tg:{p0}:due:bot", *strays, 1, "other/ann")
    await real.client.execute_command("ZADD", "tg:{p0}:lease", *strays)
    assert (await store.horizon(limit=9)).expired == ()
    assert [due.conversation for due in await store.due("bot", limit=9)] == [ANN]
    assert await real.client.zcard("tg:{p0}:due:bot") == 1
    assert await real.client.zcard("tg:{p0}:lease") == 0


async def test_what_cannot_be_repaired_is_said_of_one_conversation(real: Real):
    store = real.store()
    await store.add([message("m1")])
    await real.client.set("tg:{p0}:d:bot/ann", "no hash")
    with pytest.raises(StoreDamaged):
        await store.add([message("m2")])
    await store.add([message("b1", BEN)])
    assert await ids(store, BEN) == ["b1"]
