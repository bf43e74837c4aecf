"""What is settled is forgotten in time, what is erased at once; not a key, not a byte stays."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.end_to_end.traffic import window
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tidegate import Client, NackAction, NotFound

CANARY, USER = "canary-4711-text", "user-with-a-phone-number"
COUNTERS = {"tg:layout", "tg:{p0}:ctr", "tg:{p0}:n:bot"}


class Place:
    """A server on a store that a test can look into."""

    def __init__(self, gate: Client, client: Redis):
        self.gate = gate
        self.client = client

    async def keys(self) -> set[str]:
        return {key.decode() async for key in self.client.scan_iter("*")}

    async def traces(self) -> list[str]:
        """The keys that name the user, or hold the text."""
        found: list[str] = []
        for key in await self.keys():
            content = await self.client.dump(key) or b""
            if USER in key or CANARY.encode() in content or USER.encode() in content:
                found.append(key)
        return found

    async def add(self, text: str, *, delay_s: float = 0, message_id: str | None = None) -> str:
        policy = window(delay_s)
        added = await self.gate.add("bot", USER, text, policy=policy, message_id=message_id)
        return added.message_id


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with StoreProcess(appendonly="no") as store:
        server = Server(
            tmp_path,
            store_url=store.user_url,
            retain_status="1s",
            retain_processed="1s",
            deduplication="1s",
        )
        async with server, Client(server.target) as gate, store.client() as client:
            yield Place(gate, client)


async def test_what_is_settled_leaves_no_trace_after_a_while(place: Place):
    for text in (CANARY, f"{CANARY} again"):
        await place.add(text)
        (batch,) = await place.gate.pull("bot", wait=timedelta(seconds=10))
        await batch.ack()
    assert await place.traces()
    await eventually(lambda: _gone(place))
    assert await place.keys() <= COUNTERS


async def _gone(place: Place) -> bool:
    return not await place.traces()


async def test_erasing_leaves_no_trace_of_anything(place: Place):
    """A dead letter, a processed batch that is retained, one in flight, and an open buffer."""
    for settle in ("dead", "ack", "none"):
        await place.add(f"{CANARY} {settle}")
        (batch,) = await place.gate.pull("bot", wait=timedelta(seconds=10))
        if settle == "dead":
            await batch.nack(action=NackAction.DEAD_LETTER, reason="no good")
        elif settle == "ack":
            await batch.ack()
    await place.add(f"{CANARY} open", delay_s=60)
    assert len(await place.traces()) >= 6
    erased = await place.gate.erase("bot", USER)
    assert erased == 4
    assert await place.traces() == []
    assert await place.keys() <= COUNTERS
    with pytest.raises(NotFound):
        await batch.ack()
    with pytest.raises(NotFound):
        await place.gate.status("bot", USER)
    assert await place.gate.erase("bot", USER) == 0
    stats = await place.gate.stats()
    assert (stats.open_buffers, stats.delivering_batches, stats.dead_letters) == (0, 0, 0)


async def test_an_erased_conversation_begins_anew(place: Place):
    await place.add(CANARY, message_id="one")
    await place.gate.erase("bot", USER)
    await place.add("fresh", message_id="one")
    (batch,) = await place.gate.pull("bot", wait=timedelta(seconds=10))
    assert [message.text for message in batch.messages] == ["fresh"]
