"""kill -9 under load: nothing that was acknowledged is lost, doubled or out of order."""

import os
import random
import signal
from datetime import timedelta
from pathlib import Path

from tests.end_to_end.traffic import Load, Reader
from tests.support.history import History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tidegate import Client

LEASE = timedelta(seconds=1)
ROUNDS = 3


async def test_a_server_that_is_killed_under_load_loses_nothing(tmp_path: Path, history: History):
    async with Server(tmp_path) as server, Client(server.target) as gate:
        async with Reader(gate, history, "bot", lease=LEASE) as reader:
            async with Load([gate], history, "bot") as load:
                for _ in range(ROUNDS):
                    await load.more(random.randint(50, 300))
                    await server.kill()
                    await server.start()
                await load.more(100)
            await eventually(history.drained, within_s=20)
        assert len(reader.batches) > ROUNDS


async def test_an_embedded_store_that_is_killed_under_load_loses_nothing(
    tmp_path: Path, history: History
):
    async with Server(tmp_path) as server, Client(server.target) as gate:
        async with Reader(gate, history, "bot", lease=LEASE):
            async with Load([gate], history, "bot") as load:
                for _ in range(ROUNDS):
                    await load.more(random.randint(100, 500))
                    os.kill(server.store_pid(), signal.SIGKILL)
                await load.more(100)
            await eventually(history.drained, within_s=20)
        assert len(server.logged("embedded store ended, starting it again")) == ROUNDS


async def test_two_servers_of_which_one_is_killed_under_load_lose_nothing(
    tmp_path: Path, history: History
):
    async with (
        StoreProcess() as store,
        Server(tmp_path / "a", store_url=store.user_url) as victim,
        Server(tmp_path / "b", store_url=store.user_url) as witness,
        Client(victim.target) as one,
        Client(witness.target) as other,
        Reader(one, history, "bot", lease=LEASE),
        Reader(other, history, "bot", lease=LEASE),
    ):
        async with Load([one, other], history, "bot") as load:
            for _ in range(ROUNDS):
                await load.more(random.randint(50, 300))
                await victim.kill()
                await load.more(50)
                await victim.start()
        await eventually(history.drained, within_s=20)
