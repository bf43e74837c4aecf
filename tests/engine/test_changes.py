"""Hold, amend, remove, discard and erase, also at the moment of a claim, an ack or an expiry."""

import asyncio

import pytest

from tests.engine.support import LATER, NOW, SOON, Server, message, servers, taken, until
from tidegate_server.core.model import Conversation, NackAction, NewMessage
from tidegate_server.errors import AlreadySealed, NotFound
from tidegate_server.store.signals import NoticeKind

ANN, NOBODY = Conversation("a", "ann"), Conversation("a", "nobody")
ELSEWHERE = Conversation("b", "ann")


async def added(server: Server, *messages: NewMessage) -> list[str]:
    await server.engine.add(messages)
    return [one.id for one in messages]


async def amended(server: Server, name: str, *, at: Conversation = ANN) -> None:
    await server.engine.amend(at, name, body=b"better", payload_bytes=6)


async def test_a_held_window_closes_later():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann")
        held = await server.engine.hold(ANN, 150)
        assert held.held
        assert held.due_ms is not None
        batch = await taken(subscriber)
        assert batch.info.sealed_at_ms >= held.due_ms >= held.at_ms + 150
        assert server.store.asked["claim"] == 1


async def test_a_window_held_at_another_server_closes_later_too():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a")
        await here.add("ann")
        held = await there.engine.hold(ANN, 150)
        batch = await taken(subscriber)
        assert batch.info.sealed_at_ms >= (held.due_ms or 0) > held.at_ms


async def test_a_hold_without_a_window_or_after_its_end_changes_nothing():
    async with servers() as (server,):
        assert not (await server.engine.hold(NOBODY, 1_000)).held
        await server.add("ann", policy=NOW)
        held = await server.engine.hold(ANN, 1_000)
        assert not held.held
        assert held.buffer
        await taken(server.subscribe("a"))


async def test_an_amended_message_is_delivered_in_its_place():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        one, _ = await added(server, message("ann"), message("ann"))
        await amended(server, one)
        batch = await taken(subscriber)
        assert [kept.body for kept in batch.messages] == [b"better", b"hello"]
        assert batch.messages[0].amended_at_ms >= batch.messages[0].received_at_ms
        assert batch.messages[1].amended_at_ms == 0


async def test_the_last_message_out_closes_the_window_without_a_batch():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        (only,) = await added(server, message("ann"))
        assert (await server.engine.remove(ANN, only)).buffer is None
        assert (await server.engine.remove(ANN, only)).buffer is None
        assert await subscriber.next(0.08) is None


async def test_a_discarded_buffer_is_not_delivered_and_the_next_one_is():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", "ann")
        assert await server.engine.discard(ANN) == 2
        assert await server.engine.discard(ANN) == 0
        (name,) = await added(server, message("ann"))
        batch = await taken(subscriber)
        assert [kept.id for kept in batch.messages] == [name]


@pytest.mark.parametrize("where", [NOBODY, ELSEWHERE])
async def test_another_conversation_knows_nothing_of_it(where: Conversation):
    async with servers() as (server,):
        (name,) = await added(server, message("ann", policy=LATER))
        with pytest.raises(NotFound):
            await amended(server, name, at=where)
        with pytest.raises(NotFound):
            await server.engine.remove(where, name)
        assert await server.engine.discard(where) == 0
        assert (await server.engine.erase(where)).messages == 0
        assert not (await server.engine.hold(where, 1_000)).held
        status = await server.store.status(ANN)
        assert status.buffer
        assert status.buffer.message_count == 1


async def test_a_change_while_the_claims_answer_is_under_way_comes_too_late():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a")
        here.store.gate = asyncio.Event()
        (name,) = await added(here, message("ann", policy=NOW))
        await until(lambda: bool(here.store.tokens))
        with pytest.raises(AlreadySealed):
            await amended(there, name)
        with pytest.raises(AlreadySealed):
            await there.engine.remove(ANN, name)
        assert await there.engine.discard(ANN) == 0
        assert not (await there.engine.hold(ANN, 1_000)).held
        here.store.gate.set()
        assert [kept.body for kept in (await taken(subscriber)).messages] == [b"hello"]


async def test_changes_and_claims_of_two_servers_race_and_each_message_ends_once():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=200)
        names = [message(f"{n}", policy=NOW if n % 2 else SOON) for n in range(100)]
        await here.engine.add(names)

        async def change(server: Server, one: NewMessage) -> bool:
            try:
                await server.engine.remove(one.conversation, one.id)
            except AlreadySealed:
                return False
            return True

        gone = await asyncio.gather(
            *(change(server, one) for one in names for server in (here, there))
        )
        removed = {one.id for one, was in zip(names, gone[::2], strict=True) if was}
        delivered = {(await taken(subscriber)).messages[0].id for _ in range(100 - len(removed))}
        assert delivered.isdisjoint(removed)
        assert delivered | removed == {one.id for one in names}


async def test_a_message_behind_a_batch_can_be_changed_when_the_batch_is_acked():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        one, two = await added(server, message("ann"), message("ann"))
        await asyncio.gather(
            server.ack(batch), amended(server, one), server.engine.remove(ANN, two)
        )
        assert [kept.body for kept in (await taken(subscriber)).messages] == [b"better"]


async def test_what_is_discarded_behind_a_batch_does_not_come_with_its_rebuffer():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await server.add("ann", policy=LATER)
        await server.engine.discard(ANN)
        await server.engine.nack(batch.info.batch_id, batch.token, NackAction.REBUFFER)
        assert (await server.store.status(ANN)).buffer
        await server.engine.flush(ANN)
        assert (await taken(subscriber)).messages == batch.messages


async def test_a_rebuffered_message_can_be_amended_and_removed():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        one, two = await added(server, message("ann", policy=NOW), message("ann", policy=NOW))
        batch = await taken(subscriber)
        await server.engine.nack(batch.info.batch_id, batch.token, NackAction.REBUFFER)
        await amended(server, one)
        await server.engine.remove(ANN, two)
        await server.engine.flush(ANN)
        again = await taken(subscriber)
        assert [(kept.id, kept.body) for kept in again.messages] == [(one, b"better")]


async def test_erasing_frees_the_credit_of_the_batch_in_flight():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=1)
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await server.add("ann", policy=LATER)
        erased = await server.engine.erase(ANN)
        assert (erased.messages, erased.batch_id) == (2, batch.info.batch_id)
        assert subscriber.in_flight == 0
        with pytest.raises(NotFound):
            await server.ack(batch)
        await server.add("bob", policy=NOW)
        assert (await taken(subscriber)).info.conversation.name == "bob"


async def test_erasing_at_another_server_frees_the_credit_too():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        await here.add("ann", policy=NOW)
        await taken(subscriber)
        await there.engine.erase(ANN)
        await until(lambda: subscriber.in_flight == 0)


async def test_a_batch_that_is_erased_before_it_is_taken_is_never_handed_out():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        await until(lambda: subscriber.in_flight == 1)
        await server.engine.erase(ANN)
        assert await subscriber.next(0.03) is None


async def test_erasing_at_the_moment_of_the_claim_leaves_no_credit_behind():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        here.store.gate = asyncio.Event()
        await here.add("ann", policy=NOW)
        await until(lambda: bool(here.store.tokens))
        await there.engine.erase(ANN)
        await asyncio.sleep(0.01)
        here.store.gate.set()
        batch = await taken(subscriber)
        with pytest.raises(NotFound):
            await here.ack(batch)
        await until(lambda: subscriber.in_flight == 0)


async def test_erasing_at_the_moment_of_an_expiry_is_no_error():
    async with servers() as (server,):
        subscriber = server.subscribe("a", lease_ms=20)
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await until(lambda: server.store.asked["expire"] == 1)
        await server.engine.erase(ANN)
        assert (await server.store.status(ANN)).current_batch is None
        with pytest.raises(NotFound):
            await server.ack(batch)


async def test_a_requeued_dead_letter_comes_again_at_once_and_only_once():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a")
        await here.add("ann", policy=NOW)
        first = await taken(subscriber)
        await here.engine.nack(first.info.batch_id, first.token, NackAction.DEAD_LETTER)
        results = await asyncio.gather(
            *(server.engine.requeue(first.info.batch_id) for server in (here, there) * 5)
        )
        assert sum(result.applied for result in results) == 1
        again = await taken(subscriber)
        assert [kept.id for kept in again.messages] == [kept.id for kept in first.messages]
        assert not await here.engine.delete(first.info.batch_id)


async def test_a_late_word_about_an_old_lease_does_not_free_the_new_one():
    async with servers(2) as (here, there):
        subscriber = here.subscribe("a", most=1)
        await here.add("ann", policy=NOW)
        old = await taken(subscriber)
        await here.engine.nack(old.info.batch_id, old.token, NackAction.RELEASE)
        new = await taken(subscriber)
        assert new.info.batch_id == old.info.batch_id
        there.store.told.clear()
        await there.engine.nack(new.info.batch_id, new.token, NackAction.RELEASE)
        newest = await taken(subscriber)
        (late,) = (told for told in there.store.told if told.kind is NoticeKind.SETTLED)
        assert new.token not in repr(late)
        await there.store.tell([late])
        assert await subscriber.next(0.03) is None
        assert subscriber.in_flight == 1
        await here.ack(newest)
        assert subscriber.in_flight == 0


async def test_a_batch_taken_back_late_does_not_cost_the_new_lease_its_credit():
    async with servers(2, sweep_ms=20) as (here, there):
        subscriber = here.subscribe("a", most=1, lease_ms=40)
        await here.add("ann", policy=NOW)
        await taken(subscriber)
        again = await taken(subscriber)
        assert again.info.attempt == 2
        assert subscriber.in_flight == 1
        await there.ack(again)
        await until(lambda: subscriber.in_flight == 0)
