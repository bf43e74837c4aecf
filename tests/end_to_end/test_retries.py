"""Batches that are not processed: given back, lost with their subscriber, or settled too late."""

import asyncio
import itertools
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from tests.end_to_end.traffic import Reader, send, settle, took, window
from tests.support.history import Chat, History
from tests.support.servers import Server
from tests.support.stores import eventually
from tidegate import Batch, BatchState, Client, LeaseLost, NackAction

BASE_S = 0.05
"""As the shared server is told."""
SECOND = timedelta(seconds=1)

# A subscriber in a process of its own, to be killed while it works.
WORKER = """
import asyncio, sys
from datetime import timedelta
from tidegate import Client

async def main():
    async with Client(sys.argv[1]) as gate:
        async with gate.subscribe(sys.argv[2], lease=timedelta(seconds=1)) as subscription:
            async for batch in subscription:
                print(batch.id, flush=True)

asyncio.run(main())
"""


async def pull(gate: Client, history: History, instance: str, lease: timedelta = SECOND) -> Batch:
    (batch,) = await gate.pull(instance, wait=timedelta(seconds=5), lease=lease)
    took(history, batch)
    return batch


async def waits(gate: Client, chat: Chat) -> bool:
    """Whether the conversation's batch is nobody's at the moment."""
    current = (await gate.status(*chat)).current_batch
    return current is not None and current.state is BatchState.RETRY_SCHEDULED


async def test_a_batch_that_is_nacked_comes_again_with_growing_waits_and_then_is_a_dead_letter(
    gate: Client, history: History
):
    chat, seen = ("nacks", "anna"), list[tuple[float, int]]()

    async def refuse(batch: Batch) -> None:
        if batch.messages[0].id == "poison":
            seen.append((time.monotonic(), batch.attempt))
            reason, last = f"no {batch.attempt}", batch.attempt == batch.info.max_attempts
            await settle(history, batch, nack=NackAction.RETRY, reason=reason, final=last)
        else:
            await settle(history, batch)

    async with Reader(gate, history, "nacks", answer=refuse) as reader:
        await send(gate, history, chat, "poison", policy=window(0))
        await eventually(lambda: bool(seen))
        await send(gate, history, chat, "fine", policy=window(0))
        await eventually(history.drained)
        assert [message.id for message in reader.batches[-1].messages] == ["fine"]

    assert [attempt for _, attempt in seen] == [1, 2, 3, 4]
    begun = [at_s for at_s, _ in seen]
    waits_s = [after - before for before, after in itertools.pairwise(begun)]
    for n, wait_s in enumerate(waits_s):
        assert wait_s >= BASE_S * 2**n - 0.002

    (dead,) = [info async for info in gate.dead_letters("nacks")]
    assert (dead.state, dead.attempt, dead.max_attempts) == (BatchState.DEAD_LETTERED, 4, 4)
    assert (dead.last_error_reason, dead.last_error_message) == ("NACKED", "no 4")
    details = await gate.batch(dead.batch_id)
    assert [message.text for message in details.messages] == ["payload of poison"]
    failures = [(attempt.number, attempt.error_message) for attempt in details.attempts]
    assert failures == [(1, "no 1"), (2, "no 2"), (3, "no 3"), (4, "no 4")]
    assert (await gate.stats("nacks")).dead_letters == 1


async def test_a_batch_can_be_made_a_dead_letter_at_once(gate: Client, history: History):
    await send(gate, history, ("poison", "anna"), "m1", policy=window(0))
    batch = await pull(gate, history, "poison")
    assert await settle(history, batch, nack=NackAction.DEAD_LETTER, reason="not for us")
    (dead,) = [info async for info in gate.dead_letters("poison")]
    assert (dead.batch_id, dead.last_error_message) == (batch.id, "not for us")


async def test_a_released_batch_comes_at_once_and_counts_no_attempt(gate: Client, history: History):
    await send(gate, history, ("release", "anna"), "m1", policy=window(0))
    first = await pull(gate, history, "release")
    assert await settle(history, first, nack=NackAction.RELEASE)
    again = await pull(gate, history, "release")
    assert (again.id, again.attempt) == (first.id, 1)
    assert await settle(history, again)


async def test_a_subscriber_can_ask_for_a_longer_wait(gate: Client, history: History):
    await send(gate, history, ("patience", "anna"), "m1", policy=window(0))
    batch = await pull(gate, history, "patience")
    begun_s = time.monotonic()
    delay = timedelta(seconds=0.3)
    assert await settle(history, batch, nack=NackAction.RETRY, retry_delay=delay)
    again = await pull(gate, history, "patience")
    assert time.monotonic() - begun_s >= 0.298
    assert await settle(history, again)


async def test_the_batch_of_a_killed_subscriber_goes_to_another_one(
    gate: Client, shared_server: Server, history: History
):
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", WORKER, shared_server.target, "killed"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        await send(gate, history, ("killed", "anna"), "m1", policy=window(0))
        assert process.stdout
        lost = (await asyncio.to_thread(process.stdout.readline)).strip()
    finally:
        process.kill()
        process.communicate()
    async with Reader(gate, history, "killed") as reader:
        await eventually(history.drained)
    (batch,) = reader.batches
    assert (batch.id, batch.attempt, batch.info.last_error_reason) == (lost, 2, "LEASE_EXPIRED")


async def test_an_acknowledgement_after_another_claim_is_refused_and_harms_nothing(
    gate: Client, history: History
):
    await send(gate, history, ("too-late", "anna"), "m1", policy=window(0))
    slow = await pull(gate, history, "too-late")
    quick = await pull(gate, history, "too-late", lease=timedelta(seconds=30))
    assert (quick.id, quick.attempt) == (slow.id, 2)
    assert not await settle(history, slow)
    with pytest.raises(LeaseLost):
        await slow.nack()
    with pytest.raises(LeaseLost):
        await slow.extend(SECOND)
    assert await settle(history, quick)


async def test_a_late_acknowledgement_counts_while_nobody_has_claimed_the_batch(
    gate: Client, history: History
):
    chat = ("late", "anna")
    await send(gate, history, chat, "m1", policy=window(0))
    batch = await pull(gate, history, "late")
    await eventually(lambda: waits(gate, chat))
    assert await settle(history, batch)
    last = (await gate.status(*chat)).last_batch
    assert last
    assert (last.state, last.attempt) == (BatchState.COMPLETED, 1)


async def test_a_batch_whose_stream_broke_can_still_be_settled(gate: Client, history: History):
    async def hold(batch: Batch) -> None:
        pass

    async with Reader(gate, history, "broken-stream", answer=hold) as reader:
        await send(gate, history, ("broken-stream", "anna"), "m1", policy=window(0))
        await eventually(lambda: bool(reader.batches))
    assert await settle(history, reader.batches[0])


async def test_a_lease_lives_as_long_as_the_block_that_works_on_it(gate: Client):
    await gate.add("long-work", "anna", "x", policy=window(0))
    (batch,) = await gate.pull("long-work", lease=SECOND)
    first_end = batch.lease_expires_at
    async with batch:
        await eventually(lambda: batch.lease_expires_at > first_end + SECOND)
        assert await gate.pull("long-work", wait=timedelta(0)) == []
    last = (await gate.status("long-work", "anna")).last_batch
    assert last
    assert (last.state, last.attempt) == (BatchState.COMPLETED, 1)


async def test_a_block_that_raises_gives_the_batch_back(gate: Client):
    await gate.add("raises", "anna", "x", policy=window(0))
    (batch,) = await gate.pull("raises")
    with pytest.raises(ZeroDivisionError):
        async with batch:
            raise ZeroDivisionError
    (again,) = await gate.pull("raises")
    assert (again.id, again.attempt) == (batch.id, 2)
    assert again.info.last_error_message == "ZeroDivisionError"
    await again.ack()
