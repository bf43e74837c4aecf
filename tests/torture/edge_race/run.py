"""One run of the load against one contestant: processes that write, and what they saw."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.torture.edge_race.count import Delivered, Sent
from tests.torture.edge_race.writer import Order

ROOT = Path(__file__).parents[3]
WRITERS, SHOTS = 3, 10
WINDOW_MESSAGES = 1 + WRITERS * SHOTS
"""Of one window: the one that opens it, and the shots at its end."""
MOST_CONVERSATIONS = 10
"""At the same time, of one writer."""
LONGEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What all writers saw, and how long it took."""

    sent: list[Sent]
    delivered: list[Delivered]
    seconds: float


def order_of(
    contestant: str, at: str, run: str, messages: int, *, ends: bool, seed: int, directory: Path
) -> Order:
    """An order that sends about so many messages, in a directory that is made for it."""
    windows = max(1, round(messages / WINDOW_MESSAGES / WRITERS))
    conversations = min(MOST_CONVERSATIONS, windows)
    directory.mkdir()
    return Order(
        contestant=contestant,
        at=at,
        run=run,
        index=0,
        writers=WRITERS,
        conversations=conversations,
        windows=max(1, round(windows / conversations)),
        shots=SHOTS,
        ends=ends,
        seed=seed,
        directory=str(directory),
    )


async def run(order: Order) -> Seen:
    """Let the writers write, and wait until their processes have ended."""
    orders = [replace(order, index=n) for n in range(order.writers)]
    async with asyncio.timeout(LONGEST_S), _processes(orders) as processes:
        await asyncio.gather(*(_hear(process, b"ready") for process in processes))
        begun_s = time.monotonic()
        for process in processes:
            _tell(process)
        await asyncio.gather(*(_hear(process, b"done") for process in processes))
        seconds = time.monotonic() - begun_s
        for process in processes:
            _hang_up(process)
        await asyncio.gather(*(_end(process) for process in processes))
    return _collect(orders, seconds)


@asynccontextmanager
async def _processes(orders: list[Order]) -> AsyncGenerator[list[asyncio.subprocess.Process]]:
    processes: list[asyncio.subprocess.Process] = []
    try:
        for order in orders:
            processes.append(await _spawn(order))
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _spawn(order: Order) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.torture.edge_race.writer", json.dumps(asdict(order))),
        cwd=ROOT,
        env=os.environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _hear(process: asyncio.subprocess.Process, word: bytes) -> None:
    assert process.stdout
    heard = (await process.stdout.readline()).strip()
    assert heard == word, f"a writer says {heard!r} instead of {word!r}; see what it printed"


def _tell(process: asyncio.subprocess.Process) -> None:
    assert process.stdin
    process.stdin.write(b"go\n")


def _hang_up(process: asyncio.subprocess.Process) -> None:
    assert process.stdin
    process.stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    code = await process.wait()
    assert code == 0, f"a writer ended with {code}; see what it printed"


def _collect(orders: list[Order], seconds: float) -> Seen:
    sent: list[Sent] = []
    delivered: list[Delivered] = []
    for order in orders:
        path = Path(order.directory) / f"{order.index}.json"
        log = json.loads(path.read_text())
        sent += [Sent(*fields) for fields in log["sent"]]
        delivered += [Delivered(*fields) for fields in log["delivered"]]
        path.unlink()
    return Seen(sent, delivered, seconds)
