"""A process of the load: it opens windows, and shoots at their ends together with the others.

It reads an order, in JSON, from its input and says "ready"; begins at the next line, and says
"done" when its own windows are; goes on shooting at those of the others until the third line;
then writes down what it saw, says "written", and waits for the next order.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.torture.edge_race.contestant import WINDOW_S, Contestant
from tests.torture.edge_race.naive import Naive
from tests.torture.edge_race.original import Original
from tests.torture.edge_race.post import Post
from tests.torture.edge_race.repaired import Repaired

AIM_S = 0.003
"""Shots go at most this far before and after a window's end."""
LIFE_S = 0.5
"""How long a process lives that ends now and then; 20 s of the replaced system."""
WINDOWS_OF_A_NAME = 4
"""A conversation gets another name after so many windows, so that there are many."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a writer is to do. `run` makes its names different from those of other runs."""

    contestant: str
    at: str
    run: str
    index: int
    writers: int
    conversations: int
    windows: int
    shots: int
    ends: bool
    seed: int
    directory: str


def log_of(order: Order) -> Path:
    """Where a writer writes down what it saw."""
    return Path(order.directory) / f"{order.index}.json"


@dataclass(frozen=True, slots=True)
class Log:
    """What a writer saw. Times are of the machine's monotonic clock."""

    sent: list[tuple[str, str, float, float, bool, int, bool]]
    """Conversation, message, begun, answered, acknowledged, sequence, new."""
    delivered: list[tuple[float, str, list[str]]]
    """When, conversation, messages."""


def _tidegate(target: str) -> Contestant:
    from tests.torture.edge_race.tidegate import Tidegate  # the others need no gRPC

    return Tidegate(target)


CONTESTANTS: dict[str, Callable[[str], Contestant]] = {
    "Tidegate": _tidegate,
    "original": Original,
    "repaired": Repaired,
    "naive": Naive,
}


class Writer:
    """One process of the load."""

    def __init__(self, order: Order):
        self.log = Log([], [])
        self._order = order
        self._random = random.Random(f"{order.seed} {order.run} {order.index}")
        self._contestant = CONTESTANTS[order.contestant](order.at)
        self._contestant.deliver(self._delivered)
        self._post = Post(Path(order.directory), order.index, order.writers, self._help)
        self._work: set[asyncio.Task[None]] = set()
        self._numbers = 0

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Do the order's part, tell when it is done, and help the others until a line comes."""
        await self._post.open()
        print("ready", flush=True)
        await commands.readline()
        lives = asyncio.create_task(self._live())
        async with asyncio.TaskGroup() as own:
            for n in range(self._order.conversations):
                own.create_task(self._keep(n))
        print("done", flush=True)
        await commands.readline()
        lives.cancel()
        await asyncio.gather(*self._work)
        await self._contestant.close()
        self._post.close()

    async def _live(self) -> None:
        while self._order.ends:
            await asyncio.sleep(LIFE_S * self._random.uniform(0.5, 1.5))
            self._contestant.end_life()

    async def _keep(self, place: int) -> None:
        """The windows of one place, one after the other."""
        await asyncio.sleep(self._random.uniform(0, WINDOW_S))
        for n in range(self._order.windows):
            name = f"{self._order.run}-{self._order.index}-{place}-{n // WINDOWS_OF_A_NAME}"
            due_s = await self._send(name) or time.time() + WINDOW_S
            helped = self._post.ask(name, due_s)
            await self._shoot(name, due_s)
            await helped

    def _help(self, name: str, due_s: float, done: Callable[[], None]) -> None:
        async def shoot() -> None:
            await self._shoot(name, due_s)
            done()

        task = asyncio.create_task(shoot())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _shoot(self, name: str, due_s: float) -> None:
        await asyncio.gather(*(self._shot(name, due_s) for _ in range(self._order.shots)))

    async def _shot(self, name: str, due_s: float) -> None:
        await asyncio.sleep(due_s - time.time() + self._random.uniform(-AIM_S, AIM_S))
        await self._send(name)

    async def _send(self, conversation: str) -> float | None:
        self._numbers += 1
        message = f"{self._order.run}-{self._order.index}-{self._numbers}"
        begun_s = time.monotonic()
        reply = await self._contestant.add(conversation, message)
        seen = (begun_s, time.monotonic(), reply.acknowledged, reply.sequence, reply.new)
        self.log.sent.append((conversation, message, *seen))
        return reply.due_s

    def _delivered(self, conversation: str, messages: Sequence[str]) -> None:
        self.log.delivered.append((time.monotonic(), conversation, list(messages)))


async def _input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


async def main() -> None:
    """Obey the orders that come."""
    commands = await _input()
    while line := await commands.readline():
        order = Order(**json.loads(line))
        writer = Writer(order)
        await writer.run(commands)
        log_of(order).write_text(json.dumps(asdict(writer.log)))
        print("written", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
