"""Stores that are killed, hang or forget their scripts, under load."""

import asyncio
import os
import random
import signal
from functools import partial

from tests.support.stores import StoreProcess, binaries, eventually
from tests.torture.forks import ForkedServer
from tests.torture.load import under_load
from tests.torture.score import Dose, Line, Score

_VERSIONS = ("redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1", "valkey-9.1")


async def _kill(version: str, dose: Dose) -> Score:
    """The store dies and is started again at once, or a moment later."""
    async with (
        StoreProcess(dict(binaries())[version], appendonly="yes", appendfsync="always") as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url, durability="fsync") as server,
    ):

        async def fault(chance: random.Random) -> None:
            await store.kill()
            await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.2)]))
            await store.start()

        return await under_load(dose, [server], fault)


async def _kill_embedded(dose: Dose) -> Score:
    """The server starts it again by itself."""
    async with ForkedServer(dose.directory / "a") as server:

        async def fault(_: random.Random) -> None:
            before = len(server.logged("embedded store ended, starting it again"))
            os.kill(server.store_pid(), signal.SIGKILL)
            await eventually(
                lambda: len(server.logged("embedded store ended, starting it again")) > before
            )

        return await under_load(dose, [server], fault)


async def _hang(dose: Dose) -> Score:
    """The store stops answering for longer than its deadline, and than a lease now and then."""
    async with (
        StoreProcess() as store,
        ForkedServer(
            dose.directory / "a", store_url=store.user_url, store_timeout="200ms"
        ) as server,
    ):

        async def fault(chance: random.Random) -> None:
            store.pause()
            await asyncio.sleep(chance.choice([0.05, 0.3, 0.3, 1.3]))
            store.resume()

        return await under_load(dose, [server], fault)


async def _hang_server(dose: Dose) -> Score:
    """The server hangs for longer than its subscribers' leases; another one takes them over."""
    async with (
        StoreProcess() as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as hung,
        ForkedServer(dose.directory / "b", store_url=store.user_url) as other,
    ):

        async def fault(chance: random.Random) -> None:
            hung.pause()
            await asyncio.sleep(chance.choice([0.1, 1.3, 2.2]))
            hung.resume()

        return await under_load(dose, [hung, other], fault)


async def _forget_scripts(dose: Dose) -> Score:
    async with (
        StoreProcess() as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as server,
        store.client() as client,
    ):

        async def fault(_: random.Random) -> None:
            await client.script_flush()

        return await under_load(dose, [server], fault, size=200)


async def _restart(dose: Dose) -> Score:
    """An orderly stop and start, after which the store knows no script."""
    async with (
        StoreProcess(appendonly="yes", appendfsync="everysec") as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as server,
    ):

        async def fault(_: random.Random) -> None:
            await store.restart()

        return await under_load(dose, [server], fault)


def _not_here(version: str) -> str | None:
    return None if version in dict(binaries()) else f"there is no {version} on this machine"


LINES = (
    *(
        Line(
            f"kill -9 of the store at fsync, {version}",
            partial(_kill, version),
            short=(2, 100),
            long=(200, 20_000),
            missing=partial(_not_here, version),
            expected="UNAVAILABLE, recovery by itself, nothing lost",
        )
        for version in _VERSIONS
    ),
    Line(
        "kill -9 of the embedded store",
        _kill_embedded,
        short=(2, 100),
        long=(60, 6_000),
        expected="started again by the server, nothing lost",
    ),
    Line(
        "the store hangs (SIGSTOP)",
        _hang,
        short=(1, 50),
        long=(200, 20_000),
        expected="UNAVAILABLE by the deadline, recovery by itself, nothing lost",
    ),
    Line(
        "a server hangs (SIGSTOP)",
        _hang_server,
        short=(1, 100),
        long=(60, 20_000),
        expected="the others take its batches over, late verdicts change nothing",
    ),
    Line(
        "SCRIPT FLUSH",
        _forget_scripts,
        short=(20, 1000),
        long=(1000, 50_000),
        expected="the scripts are loaded again, unnoticed",
    ),
    Line(
        "the store restarts with an empty script cache",
        _restart,
        short=(2, 100),
        long=(100, 10_000),
        expected="recovery by itself, nothing lost",
    ),
)
