import asyncio

import pytest

from tests.engine.support import (
    LATER,
    NOW,
    SOON,
    Server,
    hinted,
    message,
    servers,
    taken,
    until,
)
from tidegate_server.core.model import BatchState, Conversation, DeliveryChannel, NackAction
from tidegate_server.errors import Superseded
from tidegate_server.sinks.stream import Subscriber
from tidegate_server.store.signals import NoticeKind

ANN = Conversation("a", "ann")


async def silent(subscriber: Subscriber) -> bool:
    return await subscriber.next(0.03) is None


def told(server: Server, kind: NoticeKind) -> int:
    return sum(notice.kind is kind for notice in server.store.told)


async def test_the_stream_that_holds_the_batch_is_told_once_with_what_has_gathered():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await server.add("ann", "ann", policy=LATER)
        await server.add("ann", policy=LATER)
        hint = await hinted(subscriber)
        assert (hint.batch_id, hint.conversation) == (batch.info.batch_id, ANN)
        assert hint.buffer.message_count == 2
        assert await silent(subscriber)
        assert (server.metrics.superseded, server.store.told) == (1, [])


async def test_ten_messages_from_two_servers_make_one_hint():
    async with servers(3) as (here, *others):
        subscriber = here.subscribe("a")
        await here.add("ann", policy=NOW)
        batch = await taken(subscriber)
        for n in range(10):
            await others[n % 2].add("ann", policy=LATER)
        assert (await hinted(subscriber)).batch_id == batch.info.batch_id
        assert await silent(subscriber)
        assert sum(told(server, NoticeKind.SUPERSEDED) for server in others) <= 2


async def test_a_batch_that_still_waits_in_the_queue_goes_first():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        await until(lambda: subscriber.in_flight == 1)
        await server.add("ann", policy=LATER)
        batch = await taken(subscriber)
        assert (await hinted(subscriber)).batch_id == batch.info.batch_id


async def test_a_message_between_the_claim_and_its_answer_is_told_of():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a")
        here.store.gate = asyncio.Event()
        await here.add("ann", policy=NOW)
        await until(lambda: bool(here.store.tokens))
        await there.add("ann", policy=LATER)
        await until(lambda: told(there, NoticeKind.SUPERSEDED) == 1)
        here.store.gate.set()
        batch = await taken(subscriber)
        assert (await hinted(subscriber)).batch_id == batch.info.batch_id


async def test_a_retry_of_a_superseded_batch_is_told_again():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        first = await taken(subscriber)
        await server.engine.nack(first.info.batch_id, first.token, NackAction.RELEASE)
        await server.add("ann", policy=LATER)
        again = await taken(subscriber)
        assert again.info.batch_id == first.info.batch_id
        assert (await hinted(subscriber)).batch_id == first.info.batch_id


async def test_what_was_discarded_meanwhile_supersedes_nothing():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a")
        here.store.gate = asyncio.Event()
        await here.add("ann", policy=NOW)
        await until(lambda: bool(here.store.tokens))
        await there.add("ann", policy=LATER)
        await there.engine.discard(ANN)
        here.store.gate.set()
        await taken(subscriber)
        assert await silent(subscriber)


async def test_a_repeat_of_a_message_of_the_batch_supersedes_nothing():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        same = message("ann", policy=NOW)
        await server.engine.add([same])
        await taken(subscriber)
        await server.engine.add([same])
        assert await silent(subscriber)


@pytest.mark.parametrize("channel", [DeliveryChannel.PULL, DeliveryChannel.HTTP_PUSH])
async def test_only_streams_are_told(channel: DeliveryChannel):
    async with servers() as (server,):
        subscriber = server.engine.subscribe(
            "php",
            instances=frozenset(),
            max_in_flight=2,
            lease_ms=30_000,
            channel=channel,
        )
        await server.add("ann", policy=NOW)
        await taken(subscriber)
        await server.add("ann", policy=LATER)
        assert await silent(subscriber)
        assert server.metrics.superseded == 0


async def test_a_hint_goes_with_its_batch():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await server.add("ann", policy=LATER)
        await server.ack(batch)
        assert await silent(subscriber)


async def test_the_memory_of_superseded_batches_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tidegate_server.engine.superseded._KNOWN", 3)
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=20)
        for n in range(20):
            await server.add(str(n), policy=NOW)
            await taken(subscriber)
        for n in range(20):
            await server.add(str(n), policy=LATER)
            await hinted(subscriber)
        assert server.metrics.superseded == 20


async def test_a_reply_is_sent_only_when_the_user_has_stopped_writing():
    """The commit loop: each ack that comes too late brings the whole turn back."""
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        for turn in range(3):
            batch = await taken(subscriber)
            assert (batch.info.message_count, batch.info.rebuffer_count) == (turn + 1, turn)
            await server.add("ann", policy=SOON)
            assert (await hinted(subscriber)).batch_id == batch.info.batch_id
            with pytest.raises(Superseded):
                await server.engine.ack(batch.info.batch_id, batch.token, only_if_current=True)
        last = await taken(subscriber)
        assert (last.info.message_count, last.info.rebuffer_count) == (4, 3)
        settled = await server.engine.ack(last.info.batch_id, last.token, only_if_current=True)
        assert settled.state is BatchState.COMPLETED
        assert (server.metrics.rebuffered, subscriber.in_flight) == (3, 0)


async def test_a_rebuffered_batch_comes_back_after_a_whole_window():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann")
        first = await taken(subscriber)
        settled = await server.engine.nack(first.info.batch_id, first.token, NackAction.REBUFFER)
        assert settled.state is BatchState.REBUFFERED
        assert settled.due_ms == settled.at_ms + SOON.delay_ms
        again = await taken(subscriber)
        assert again.info.batch_id != first.info.batch_id
        assert again.messages == first.messages
        assert (again.info.rebuffer_count, server.metrics.rebuffered) == (1, 1)
