"""A sealed store answers like an open one, and its files give nothing away."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.adds import take
from tests.support.stores import StoreProcess
from tidegate_server.core.model import Conversation, DeliveryChannel, NackAction, NewMessage
from tidegate_server.core.model import WindowPolicy as Policy
from tidegate_server.errors import AlreadySealed, NotFound, StartupError
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import Claimed, Store
from tidegate_server.store.codec import Corrupt
from tidegate_server.store.connect import Address
from tidegate_server.store.keys import cid_of
from tidegate_server.store.memory import MemoryStore
from tidegate_server.store.redis import RedisStore
from tidegate_server.store.sealed import SealedStore
from tidegate_server.store.sealing import Keyring, NameKey, Seals, load_keyring, load_name_key
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind

CHAT = Conversation("bot", "+49 170 CANARY-NAME")
KEYS = {"k1": bytes(32), "k2": bytes(range(32))}
SEALS = Seals(Keyring(KEYS, current="k1"), NameKey(bytes(32)))


def message(name: str, chat: Conversation = CHAT, *, flush: bool = False) -> NewMessage:
    return NewMessage(chat, name, f"CANARY-BODY of {name}".encode(), 20, Policy(), flush)


async def claim(store: Store, chat: Conversation = CHAT, token: str = "token") -> Claimed:
    return await store.claim(
        chat, token=token, lease_ms=60_000, subscriber_id="s", channel=DeliveryChannel.STREAM
    )


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(inner: MemoryStore) -> SealedStore:
    return SealedStore(inner, SEALS)


async def test_a_batch_comes_out_as_its_messages_went_in(store: SealedStore):
    await take(store, [message("one"), message("two", flush=True)])
    batch = (await claim(store)).batch
    assert batch
    assert batch.info.conversation == CHAT
    assert [(m.id, m.body) for m in batch.messages] == [
        ("one", b"CANARY-BODY of one"),
        ("two", b"CANARY-BODY of two"),
    ]


async def test_an_id_is_known_again_and_a_message_can_be_changed(store: SealedStore):
    first, second = await take(store, [message("one"), message("one")])
    assert second.sequence == first.sequence
    await store.amend(CHAT, "one", body=b"better", payload_bytes=6)
    assert (await store.track(CHAT, "one")).duplicates == 1
    await store.flush(CHAT)
    batch = (await claim(store)).batch
    assert batch
    assert [m.body for m in batch.messages] == [b"better"]
    with pytest.raises(AlreadySealed, match="message one is"):
        await store.remove(CHAT, "one")
    with pytest.raises(NotFound, match="message nobody"):
        await store.remove(CHAT, "nobody")


async def test_listings_name_what_they_list(store: SealedStore):
    chats = [Conversation("bot", f"user {n}") for n in range(5)]
    await take(store, [message(f"m{n}", chat, flush=True) for n, chat in enumerate(chats)])
    found: list[Conversation] = []
    after = None
    while page := await store.conversations("bot", limit=2, after=after):
        found += [listed.conversation for listed in page]
        after = page[-1].place_ms, cid_of(page[-1].conversation)
    assert sorted(c.name for c in found) == [c.name for c in chats]
    due = await store.due("bot", limit=9)
    assert {entry.conversation for entry in due} == set(chats)


async def test_reasons_are_readable_and_lie_sealed(store: SealedStore, inner: MemoryStore):
    await take(store, [message("one", flush=True)])
    batch = (await claim(store)).batch
    assert batch
    batch_id = batch.info.batch_id
    await store.nack(batch_id, "token", NackAction.DEAD_LETTER, message="CANARY-REASON")
    (letter,) = await store.dead_letters("bot", limit=9)
    assert letter.last_error_message == "CANARY-REASON"
    assert letter.conversation == CHAT
    details = await store.batch(batch_id)
    assert [attempt.error_message for attempt in details.attempts] == ["CANARY-REASON"]
    assert [m.body for m in details.messages] == [b"CANARY-BODY of one"]
    assert "CANARY" not in repr(await inner.batch(batch_id))


async def test_servers_tell_each_other_sealed_names(inner: MemoryStore, store: SealedStore):
    heard: list[object] = []
    other, spy = SealedStore(inner.replica(), SEALS), inner.replica()
    overheard: list[object] = []
    for listener, ears in ((other, heard), (spy, overheard)):
        listener.listen(ears.append)
        listener.watch(ears.append)
    notice = Notice(NoticeKind.DUE, CHAT, "b", 1)
    event = LiveEvent(EventKind.MESSAGE_ADDED, CHAT, 1, message_id="CANARY-ID")
    await store.tell([notice])
    await store.publish([event])
    await asyncio.sleep(0)
    assert heard == [notice, event]
    assert "CANARY" not in repr(overheard)


async def test_a_new_key_seals_and_the_old_one_still_opens(inner: MemoryStore, store: SealedStore):
    await take(store, [message("old")])
    turned = SealedStore(inner, Seals(Keyring(KEYS, current="k2"), SEALS.names))
    await turned.add([message("new", flush=True)])
    batch = (await claim(turned)).batch
    assert batch
    assert [m.id for m in batch.messages] == ["old", "new"]


async def test_what_came_before_the_keys_is_delivered(inner: MemoryStore):
    await inner.add([message("before")])
    store = SealedStore(inner, Seals(SEALS.bodies))
    await take(store, [message("after", flush=True)])
    batch = (await claim(store)).batch
    assert batch
    assert [m.body for m in batch.messages] == [b"CANARY-BODY of before", b"CANARY-BODY of after"]


async def test_without_its_key_a_batch_waits_as_a_dead_letter(
    inner: MemoryStore, store: SealedStore
):
    await take(store, [message("one", flush=True)])
    keyless = SealedStore(inner, Seals(Keyring({"k3": bytes(32)}, current="k3"), SEALS.names))
    assert (await claim(keyless)).batch is None
    (letter,) = await keyless.dead_letters("bot", limit=9)
    assert letter.last_error_reason == "CORRUPT"
    assert "'k1', which this server lacks" in letter.last_error_message
    assert (await store.requeue(letter.batch_id)).applied
    batch = (await claim(store, token="again")).batch
    assert batch
    assert [m.body for m in batch.messages] == [b"CANARY-BODY of one"]


@given(body=st.binary(), context=st.binary(), other=st.binary())
def test_a_body_opens_only_where_it_was_sealed(body: bytes, context: bytes, other: bytes):
    keyring = Keyring(KEYS, current="k1")
    sealed = keyring.seal(body, context)
    assert keyring.open(sealed, context) == body
    if other != context:
        with pytest.raises(Corrupt):
            keyring.open(sealed, other)


@given(sealed=st.binary().map(lambda rest: b"\0" + rest))
def test_a_damaged_body_is_corrupt_and_nothing_else(sealed: bytes):
    with pytest.raises(Corrupt):
        Keyring(KEYS, current="k1").open(sealed, b"")


@given(name=st.text(min_size=1), other=st.text(min_size=1))
def test_a_name_has_one_seal_and_no_other_has_it(name: str, other: str):
    key = NameKey(bytes(32))
    assert key.open(key.seal(name, "bot"), "bot") == name
    assert (key.seal(name, "bot") == key.seal(other, "bot")) == (name == other)
    assert key.seal(name, "bot") != key.seal(name, "another")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no key"),
        ("k1 c2hvcnQ=", "line 1: a key is 32 bytes in base64"),
        ("k1 no base64!", "line 1: a key is 32 bytes in base64"),
        ("# old\n\nk1", "line 3: a key is 32 bytes in base64"),
        ("k1 {key}\nk1 {key}", "line 2: the key's name is there twice"),
    ],
)
def test_a_wrong_file_of_keys_is_one_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "keys"
    path.write_text(text.format(key=base64.b64encode(bytes(32)).decode()))
    with pytest.raises(StartupError, match=sentence):
        load_keyring(path)


def test_the_first_key_of_the_file_seals(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(
        "".join(f"{name} {base64.b64encode(key).decode()}\n" for name, key in KEYS.items())
    )
    assert load_keyring(path).seal(b"", b"")[2:4] == b"k1"


def test_a_name_key_is_one_line(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    assert load_name_key(path).fingerprint == load_name_key(path).fingerprint
    path.write_text("")
    with pytest.raises(StartupError, match="must have one line"):
        load_name_key(path)


@pytest_asyncio.fixture
async def on_disk() -> AsyncIterator[tuple[StoreProcess, SealedStore]]:
    async with StoreProcess(appendonly="yes") as process:
        inner = RedisStore(Address(process.url, timeout=5).dialer(), counters=Metrics(), timeout=5)
        inner.start()
        yield process, SealedStore(inner, SEALS)
        await inner.stop()


async def test_no_file_of_the_store_has_a_text_a_name_or_an_id(
    on_disk: tuple[StoreProcess, SealedStore],
):
    process, store = on_disk
    await take(store, [message("CANARY-ID"), message("CANARY-ID"), message("CANARY-2", flush=True)])
    await store.amend(CHAT, "CANARY-2", body=b"CANARY-AMENDED", payload_bytes=9)
    batch = (await claim(store)).batch
    assert batch
    assert batch.messages[1].body == b"CANARY-AMENDED"
    await store.nack(batch.info.batch_id, "token", NackAction.DEAD_LETTER, message="CANARY")
    await process.stop()
    files = [path.read_bytes() for path in process.dir.rglob("*") if path.is_file()]
    assert any(b"RPUSH" in content.upper() for content in files)
    assert not any(b"CANARY" in content or b"+49" in content for content in files)
    await process.start()
