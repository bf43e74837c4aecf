"""What must not be felt: other instances' trouble, and a server with nothing to do."""

import asyncio
import statistics
import time
from pathlib import Path

from tests.end_to_end.traffic import Reader, send, settle, window
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tidegate import Batch, Client

OVERDUE, PROBES = 3_000, 150
IDLE_S = 1.0


async def lateness_ms(gate: Client, instance: str) -> float:
    """How late batches of the instance come, in the median."""
    history, late = History(), list[float]()

    async def answer(batch: Batch) -> None:
        late.append((time.time() - batch.info.due_at.timestamp()) * 1_000)
        await settle(history, batch)

    async with Reader(gate, history, instance, answer=answer):
        for n in range(PROBES):
            await send(gate, history, (instance, f"{n}"), "m", policy=window(0.03))
        await eventually(history.drained)
    return statistics.median(late)


async def test_thousands_of_overdue_buffers_that_nobody_wants_do_not_delay_another_instance(
    tmp_path: Path,
):
    async with (
        StoreProcess() as store,
        Server(tmp_path, store_url=store.user_url) as server,
        Client(server.target) as gate,
    ):
        alone_ms = await lateness_ms(gate, "wanted")
        producers = asyncio.Semaphore(64)

        async def leave(n: int) -> None:
            async with producers:
                await gate.add("unwanted", f"{n}", "x", policy=window(0))

        await asyncio.gather(*(leave(n) for n in range(OVERDUE)))
        assert (await gate.stats("unwanted")).open_buffers == OVERDUE
        beside_ms = await lateness_ms(gate, "wanted-as-well")
        print(f"late by {alone_ms:.1f} ms alone, {beside_ms:.1f} ms beside {OVERDUE} overdue")
        assert beside_ms < 5 * alone_ms + 20


async def test_a_server_with_nothing_to_do_leaves_its_store_alone(tmp_path: Path):
    """All commands count, also those inside of scripts."""
    async with (
        StoreProcess() as store,
        Server(tmp_path, store_url=store.user_url) as server,
        Client(server.target) as gate,
        store.client() as client,
    ):

        async def commands_per_s() -> float:
            """In the quieter of two spans: what has just happened may still echo in the first."""
            counts: list[int] = []
            for _ in range(3):
                counts.append((await client.info("stats"))["total_commands_processed"])
                await asyncio.sleep(IDLE_S)
            return min(counts[1] - counts[0], counts[2] - counts[1]) / IDLE_S

        async def is_subscribed() -> bool:
            return (await gate.stats()).subscribers == 1

        unheard = await commands_per_s()
        async with Reader(gate, History()):
            await eventually(is_subscribed)
            heard = await commands_per_s()
        print(f"{unheard:.1f} commands a second, {heard:.1f} with a subscriber")
        assert unheard <= 5
        assert heard <= 10
