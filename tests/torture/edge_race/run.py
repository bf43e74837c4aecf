"""One run of the load against one contestant: processes that write, and what they saw."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from tests.torture.edge_race.count import Delivered, Sent
from tests.torture.edge_race.writer import Order, log_of

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
    conversations = min(MOST_CONVERSATIONS, -(-windows // 3))
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


class Writers:
    """The processes. `async with` starts them, and ends them."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(WRITERS):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.torture.edge_race.writer"),
                    cwd=ROOT,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def obey(self, order: Order) -> Seen:
        """What the writers see who obey an order, each with an index of its own."""
        orders = [replace(order, index=n) for n in range(WRITERS)]
        async with asyncio.timeout(LONGEST_S):
            await self._all([json.dumps(asdict(order)) for order in orders], "ready")
            begun_s = time.monotonic()
            await self._all(["go"] * WRITERS, "done")
            seconds = time.monotonic() - begun_s
            await self._all(["enough"] * WRITERS, "written")
        return _collect(orders, seconds)

    async def _all(self, lines: Sequence[str], answer: str) -> None:
        for process, line in zip(self._processes, lines, strict=True):
            assert process.stdin
            process.stdin.write(f"{line}\n".encode())
        await asyncio.gather(*(_hear(process, answer) for process in self._processes))


async def _hear(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout
    heard = (await process.stdout.readline()).decode().strip()
    assert heard == word, f"a writer says {heard!r} instead of {word!r}; see what it printed"


def _collect(orders: Sequence[Order], seconds: float) -> Seen:
    sent: list[Sent] = []
    delivered: list[Delivered] = []
    for order in orders:
        path = log_of(order)
        log = json.loads(path.read_text())
        sent += [Sent(*fields) for fields in log["sent"]]
        delivered += [Delivered(*fields) for fields in log["delivered"]]
        path.unlink()
    return Seen(sent, delivered, seconds)
