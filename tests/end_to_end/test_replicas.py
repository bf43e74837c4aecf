"""Several servers that share one store."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.end_to_end.traffic import Load, Reader, send, settle, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate import Batch, Client

MESSAGES, CONVERSATIONS = 400, 40


@asynccontextmanager
async def pair(
    directory: Path, store: StoreProcess, **settings: str
) -> AsyncGenerator[tuple[Server, Server]]:
    async with (
        Server(directory / "a", store_url=store.user_url, **settings) as first,
        Server(directory / "b", store_url=store.user_url, **settings) as second,
    ):
        yield first, second


class Lateness:
    """How long after its time each batch came, in ms, by the instance."""

    def __init__(self, history: History):
        self.of: dict[str, list[float]] = {}
        self._history = history

    async def answer(self, batch: Batch) -> None:
        late_s = time.time() - batch.info.due_at.timestamp()
        self.of.setdefault(batch.instance, []).append(late_s * 1_000)
        await settle(self._history, batch)


def shown(lateness_ms: list[float]) -> str:
    ordered = sorted(lateness_ms)
    p99 = ordered[int(0.99 * (len(ordered) - 1))]
    return f"median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms"


@pytest.mark.parametrize("binary", [pytest.param(path, id=name) for name, path in binaries()])
async def test_messages_of_a_server_without_subscribers_arrive_through_another_one(
    binary: Path, tmp_path: Path, history: History
):
    async with (
        StoreProcess(binary, tcp=True) as store,
        pair(tmp_path, store) as (listening, other),
        Client(listening.target) as here,
        Client(other.target) as there,
    ):
        lateness = Lateness(history)

        async def produce(gate: Client, instance: str, user: int) -> None:
            for n in range(MESSAGES // CONVERSATIONS):
                chat, name = (instance, f"user {user}"), f"{user}-{n}"
                await send(gate, history, chat, name, policy=window(random.uniform(0.05, 0.2)))
                await asyncio.sleep(random.uniform(0, 0.1))

        async with Reader(here, history, answer=lateness.answer):
            async with asyncio.TaskGroup() as producers:
                for user in range(CONVERSATIONS):
                    producers.create_task(produce(here, "here", user))
                    producers.create_task(produce(there, "there", user))
            await eventually(history.drained)
    print(f"added here: {shown(lateness.of['here'])}, there: {shown(lateness.of['there'])}")


async def test_subscribers_of_two_servers_share_the_work_and_settle_anywhere(
    tmp_path: Path, history: History
):
    async with (
        StoreProcess() as store,
        pair(tmp_path, store) as (first, second),
        Client(first.target) as one,
        Client(second.target) as other,
    ):
        async with (
            Reader(one, history, "bot", max_in_flight=2) as left,
            Reader(other, history, "bot", max_in_flight=2) as right,
        ):
            async with Load([one, other], history, "bot", policy=window(0)) as load:
                await load.more(500)
            await eventually(history.drained)
        assert left.batches
        assert right.batches


async def test_an_id_is_taken_once_whichever_server_is_asked(tmp_path: Path, history: History):
    async with (
        StoreProcess() as store,
        pair(tmp_path, store) as (first, second),
        Client(first.target) as one,
        Client(second.target) as other,
        Reader(one, history, "bot"),
    ):
        policy = window(0.05)
        adds = [
            send(gate, history, ("bot", f"user {n % 10}"), f"m{n}", payload="x", policy=policy)
            for n in range(200)
            for gate in (one, other)
        ]
        random.shuffle(adds)
        await asyncio.gather(*adds)
        await eventually(history.drained)


async def test_servers_that_restart_in_turn_under_load_lose_nothing_and_repeat_nothing(
    tmp_path: Path, history: History
):
    async with (
        StoreProcess() as store,
        pair(tmp_path, store) as servers,
        Client(servers[0].target) as one,
        Client(servers[1].target) as other,
    ):
        async with (
            Reader(one, history, "bot", lease=timedelta(minutes=1)) as left,
            Reader(other, history, "bot", lease=timedelta(minutes=1)) as right,
        ):
            async with Load([one, other], history, "bot") as load:
                for n in range(4):
                    await load.more(100)
                    assert await servers[n % 2].terminate() == 0
                    await servers[n % 2].start()
            await eventually(history.drained, within_s=20)
        delivered = [batch.id for batch in left.batches + right.batches]
        assert len(delivered) == len(set(delivered))
