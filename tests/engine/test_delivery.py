import asyncio
import time
from collections import Counter

import pytest

from tests.engine.support import LATER, NOW, SOON, hinted, message, servers, taken, until
from tidegate_server.core.model import (
    BatchState,
    Conversation,
    NackAction,
    WindowMode,
    WindowPolicy,
)
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.errors import LeaseLost, Superseded

GRACE = WindowPolicy(delay_ms=150, grace_ms=150)
SLIDING = WindowPolicy(mode=WindowMode.SLIDING, delay_ms=150, max_wait_ms=1_500)


async def test_a_batch_comes_as_its_window_closes_with_one_claim():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", "ann", "ann")
        batch = await taken(subscriber)
        assert batch.info.message_count == 3
        assert batch.info.sealed_at_ms >= batch.info.due_at_ms
        assert server.store.asked["claim"] == 1
        assert server.metrics.delivered == 1
        assert server.metrics.lateness_seconds.count == 1


async def test_batches_are_seldom_late():
    async with servers() as (server,):
        subscriber = server.subscribe(most=1_000)
        late_ms: list[int] = []
        for n in range(100):
            await server.add(str(n))
            await asyncio.sleep(0.001)
        for _ in range(100):
            info = (await taken(subscriber)).info
            late_ms.append(info.sealed_at_ms - info.due_at_ms)
        assert sorted(late_ms)[50] <= 5
        assert server.store.asked["claim"] <= 110


@pytest.mark.parametrize("policy", [GRACE, SLIDING])
async def test_a_window_that_moves_takes_the_timer_along(policy: WindowPolicy):
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=policy)
        before = await server.engine.store.status(Conversation("a", "ann"))
        await asyncio.sleep(0.02)
        await server.add("ann", policy=policy)
        batch = await taken(subscriber)
        assert before.buffer
        assert batch.info.due_at_ms > before.buffer.flush_at_ms
        assert batch.info.message_count == 2
        assert server.store.asked["claim"] == 1


async def test_a_flush_brings_the_batch_at_once():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=LATER)
        await server.engine.flush(Conversation("a", "ann"))
        assert (await taken(subscriber)).info.message_count == 1


async def test_without_room_nothing_is_claimed():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=1)
        await server.add("ann", "bob", policy=NOW)
        first = await taken(subscriber)
        assert await subscriber.next(0.03) is None
        assert server.store.asked["claim"] == 1
        await server.ack(first)
        second = await taken(subscriber)
        assert {first.info.conversation.name, second.info.conversation.name} == {"ann", "bob"}


async def test_credits_bound_what_is_in_flight():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=3)
        await server.add(*(str(n) for n in range(30)), policy=NOW)
        done = 0
        while done < 30:
            batch = await taken(subscriber)
            assert subscriber.in_flight + subscriber.pending <= 3
            await server.ack(batch)
            done += 1
        assert server.store.asked["claim"] == 30
        assert (server.metrics.acked, subscriber.in_flight) == (30, 0)


async def test_two_subscribers_take_turns():
    async with servers() as (server,):
        subscribers = [server.subscribe("a", most=20), server.subscribe("a", most=20)]
        await server.add(*(str(n) for n in range(20)), policy=NOW)
        await until(lambda: server.metrics.delivered == 20)
        assert [subscriber.in_flight for subscriber in subscribers] == [10, 10]


async def test_a_conversation_waits_for_its_earlier_batch():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        first = await taken(subscriber)
        await server.add("ann", policy=NOW)
        await hinted(subscriber)
        assert await subscriber.next(0.03) is None
        await server.ack(first)
        second = await taken(subscriber)
        assert second.info.first_sequence > first.info.last_sequence


async def test_what_was_due_before_comes_to_a_new_subscriber_without_a_sweep():
    async with servers() as (server,):
        await server.add("ann", policy=NOW)
        await until(lambda: bool(server.store.told))
        assert (await taken(server.subscribe("a"))).info.conversation.name == "ann"


async def test_what_was_due_before_comes_to_a_new_subscriber_of_everything():
    async with servers() as (server,):
        await server.add("ann", policy=NOW)
        await until(lambda: bool(server.store.told))
        assert (await taken(server.subscribe())).info.conversation.name == "ann"


async def test_an_instance_that_nobody_hears_does_not_slow_another():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        for n in range(0, 10_000, 1_000):
            await server.add(*(str(n + m) for m in range(1_000)), instance="b", policy=NOW)
        await until(lambda: len(server.store.told) == 10_000)
        server.store.asked.clear()
        await server.add("ann")
        await taken(subscriber)
        assert sum(server.store.asked.values()) <= 3


async def test_a_long_backlog_of_one_instance_does_not_starve_another():
    async with servers() as (server,):
        for n in range(3):
            await server.add(*(str(n * 500 + m) for m in range(500)), instance="b", policy=NOW)
        await until(lambda: len(server.store.told) == 1_500)
        subscriber = server.subscribe(most=2)
        instances: list[str] = []
        for n in range(20):
            if n == 10:
                await server.add("ann", policy=NOW)
            batch = await taken(subscriber)
            instances.append(batch.info.conversation.instance)
            await server.ack(batch)
        assert Counter(instances) == {"a": 1, "b": 19}


async def test_a_backlog_longer_than_a_listing_comes_whole_and_once():
    async with servers() as (server,):
        names = [str(n) for n in range(1_200)]
        await server.add(*names, policy=NOW)
        await until(lambda: len(server.store.told) == 1_200)
        subscriber = server.subscribe("a", most=1_000)
        seen: Counter[str] = Counter()
        while len(seen) < 1_200:
            batch = await taken(subscriber)
            seen[batch.info.conversation.name] += 1
            await server.ack(batch)
        assert set(seen.values()) == {1}
        assert server.store.asked["due"] <= 8


async def test_a_lease_that_runs_out_brings_the_batch_to_another_one_at_once():
    async with servers() as (server,):
        dead = server.subscribe("a", most=1, lease_ms=60)
        await server.add("ann", policy=NOW)
        lost = await taken(dead)
        await server.engine.unsubscribe(dead)
        other = server.subscribe("a")
        again = await taken(other)
        late_ms = time.time_ns() // 1_000_000 - lost.lease_expires_at_ms
        assert again.info.batch_id == lost.info.batch_id
        assert 0 <= late_ms < 500
        assert again.token != lost.token
        assert server.metrics.expired == 1
        with pytest.raises(LeaseLost):
            await server.ack(lost)
        assert other.in_flight == 1


async def test_a_batch_whose_lease_is_over_is_not_taken_any_more():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=1, lease_ms=150)
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.expired >= 1 and subscriber.in_flight == 1)
        batch = await taken(subscriber)
        assert (await server.ack(batch)).state is BatchState.COMPLETED


async def test_an_extended_lease_keeps_its_credit_and_its_batch():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=1, lease_ms=200)
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        longer = await server.engine.extend(batch.info.batch_id, batch.token, 10_000)
        assert longer.lease_expires_at_ms > batch.lease_expires_at_ms + 5_000
        await asyncio.sleep(0.25)
        assert (subscriber.in_flight, server.metrics.expired) == (1, 0)
        same = await server.engine.extend(batch.info.batch_id, batch.token, None)
        assert same.lease_expires_at_ms - same.at_ms == 200
        await until(lambda: server.metrics.expired == 1)


async def test_a_retry_comes_after_its_backoff_and_then_a_dead_letter():
    async with servers(retry=RetryPolicy(retries=1, base_ms=50)) as (server,):
        subscriber = server.subscribe("a")
        await server.add("ann", policy=NOW)
        for attempt in (1, 2):
            batch = await taken(subscriber)
            assert batch.info.attempt == attempt
            now_ms = server.engine.clock.now_ms()
            assert (batch.info.next_attempt_at_ms or now_ms) <= now_ms
            settled = await server.engine.nack(
                batch.info.batch_id, batch.token, NackAction.RETRY, message="no"
            )
            if attempt == 1:
                assert settled.next_attempt_at_ms
                assert await subscriber.next(0.02) is None
        assert settled.state is BatchState.DEAD_LETTERED
        assert (server.metrics.retried, server.metrics.dead_lettered) == (1, 1)
        assert server.metrics.lateness_seconds.count == 1
        assert server.store.asked["claim"] == 2


async def test_a_superseded_batch_comes_again_with_the_newer_messages():
    async with servers() as (server,):
        subscriber = server.subscribe("a", most=1)
        await server.add("ann", policy=NOW)
        batch = await taken(subscriber)
        await server.add("ann", policy=SOON)
        with pytest.raises(Superseded):
            await server.engine.ack(batch.info.batch_id, batch.token, only_if_current=True)
        assert subscriber.in_flight == 0
        assert (await taken(subscriber)).info.message_count == 2


async def test_an_answer_repeated_with_an_old_token_does_not_free_the_new_credit():
    async with servers(retry=RetryPolicy(base_ms=1)) as (server,):
        subscriber = server.subscribe("a", most=1)
        await server.add("ann", policy=NOW)
        old = await taken(subscriber)
        await server.engine.nack(old.info.batch_id, old.token, NackAction.RETRY)
        await taken(subscriber)
        again = await server.engine.nack(old.info.batch_id, old.token, NackAction.RETRY)
        assert (again.already, subscriber.in_flight) == (True, 1)


async def test_a_subscriber_that_leaves_before_the_hand_over_is_replaced():
    async with servers() as (server,):
        server.store.gate = asyncio.Event()
        leaving = server.subscribe("a")
        await server.add("ann", policy=NOW)
        await until(lambda: bool(server.store.tokens))
        await server.engine.unsubscribe(leaving)
        staying = server.subscribe("a")
        server.store.gate.set()
        batch = await taken(staying)
        assert [batch.token] == server.store.tokens


async def test_a_batch_that_nobody_can_have_any_more_is_released():
    async with servers() as (server,):
        server.store.gate = asyncio.Event()
        leaving = server.subscribe("a")
        await server.add("ann", policy=NOW)
        await until(lambda: bool(server.store.tokens))
        await server.engine.unsubscribe(leaving)
        server.store.gate.set()
        await until(lambda: server.metrics.released == 1)
        assert (await taken(server.subscribe("a"))).info.attempt == 1


async def test_what_a_leaving_subscriber_never_took_goes_to_another_at_once():
    async with servers() as (server,):
        leaving = server.subscribe("a", most=2)
        await server.add("ann", "bob", policy=NOW)
        kept = await taken(leaving)
        await until(lambda: leaving.in_flight == 2)
        staying = server.subscribe("a")
        await server.engine.unsubscribe(leaving)
        moved = await taken(staying)
        assert {kept.info.conversation.name, moved.info.conversation.name} == {"ann", "bob"}
        assert moved.info.attempt == 1
        assert (await server.ack(kept)).state is BatchState.COMPLETED
        assert server.metrics.released == 1


async def test_a_duplicate_starts_no_second_batch():
    async with servers() as (server,):
        subscriber = server.subscribe("a")
        once = message("ann", policy=SOON)
        await server.engine.add([once])
        await server.engine.add([once])
        assert (await taken(subscriber)).info.message_count == 1
        assert server.store.asked["claim"] == 1
