"""`python -m bench.chat`: what second thoughts do to a bot, with `commit()` and without.

Users write in bursts; while the bot is answering, some of them write again. Counted is who gets
two replies to one turn, and whether a message goes unanswered.
"""

import argparse
import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from bench.process import Server
from tidegate import Batch, Client, Superseded, WindowPolicy

INSTANCE = "chat"


@dataclass(frozen=True)
class Script:
    """How the users of a run behave. Times are real ones, divided by `speed`."""

    conversations: int = 500
    turns: int = 4
    second_thoughts: float = 0.25
    window: timedelta = timedelta(seconds=8)
    answer: timedelta = timedelta(seconds=20)
    speed: float = 20
    seed: int = 1

    def seconds(self, duration: timedelta) -> float:
        """The duration as it is played."""
        return duration.total_seconds() / self.speed


@dataclass
class Record:
    """What was written and what was answered; messages are named "<turn>.<n>"."""

    written: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    answered: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    replies: int = 0
    dropped: int = 0
    second_thoughts: int = 0
    _turns: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def reply(self, user: str, texts: list[str]) -> None:
        """The bot has sent a reply to these messages."""
        self.replies += 1
        self.answered.update((user, text) for text in texts)
        self._turns.update({(user, text.split(".")[0]) for text in texts})

    @property
    def doubled(self) -> int:
        """Turns that got more than one reply."""
        return sum(1 for replies in self._turns.values() if replies > 1)

    @property
    def unanswered(self) -> int:
        """Messages that no reply answers."""
        return len(self.written - self.answered)


class Chat:
    """One run: users, and a bot that answers them, with or without `commit()`."""

    def __init__(self, gate: Client, script: Script, *, commit: bool):
        self._gate = gate
        self._script = script
        self._commit = commit
        self._random = random.Random(script.seed)
        self._answering: dict[str, asyncio.Event] = {}
        self._answered: dict[str, asyncio.Event] = {}
        self.record = Record()

    async def run(self) -> Record:
        """Play all turns of all users."""
        script = self._script
        names = [f"{self._commit}-{n}" for n in range(script.conversations)]
        for name in names:
            self._answering[name], self._answered[name] = asyncio.Event(), asyncio.Event()
        bot = asyncio.create_task(self._bot())
        try:
            await asyncio.gather(*map(self._user, names))
        finally:
            bot.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await bot
        return self.record

    async def _user(self, name: str) -> None:
        for turn in range(self._script.turns):
            self._answering[name].clear()
            self._answered[name].clear()
            texts = [f"{turn}.{n}" for n in range(self._random.randint(1, 3))]
            for text in texts:
                await self._write(name, text)
            if self._random.random() < self._script.second_thoughts:
                texts.append(f"{turn}.again")
                await self._think_again(name, texts[-1])
            await self._all_answered(name, {(name, text) for text in texts})

    async def _think_again(self, name: str, text: str) -> None:
        """Write once more while the bot is answering."""
        await self._answering[name].wait()
        part = self._random.uniform(0.1, 0.7)
        await asyncio.sleep(part * self._script.seconds(self._script.answer))
        self.record.second_thoughts += 1
        await self._write(name, text)

    async def _all_answered(self, name: str, written: set[tuple[str, str]]) -> None:
        while written - self.record.answered:
            await self._answered[name].wait()
            self._answered[name].clear()

    async def _write(self, name: str, text: str) -> None:
        policy = WindowPolicy(delay=self._script.window / self._script.speed)
        await self._gate.add(INSTANCE, name, text, policy=policy)
        self.record.written.add((name, text))

    async def _bot(self) -> None:
        async with asyncio.TaskGroup() as handlers:
            most = self._script.conversations
            async with self._gate.subscribe(INSTANCE, max_in_flight=min(most, 1000)) as batches:
                async for batch in batches:
                    handlers.create_task(self._answer(batch))

    async def _answer(self, batch: Batch) -> None:
        name = batch.conversation
        self._answering[name].set()
        async with batch:
            await asyncio.sleep(self._script.seconds(self._script.answer))
            if self._commit:
                await self._or_drop(batch)
            self.record.reply(name, [message.text for message in batch.messages])
        self._answered[name].set()

    async def _or_drop(self, batch: Batch) -> None:
        """Commit; if the user wrote again, the block around ends here and nothing is sent."""
        try:
            await batch.commit()
        except Superseded:
            self.record.dropped += 1
            raise


async def play(script: Script) -> dict[str, Record]:
    """Both runs, one after the other, on a server of their own."""
    records: dict[str, Record] = {}
    with Server() as server:
        async with Client(server.target) as gate:
            for name, commit in (("with commit()", True), ("without", False)):
                records[name] = await Chat(gate, script, commit=commit).run()
    return records


def show(records: dict[str, Record], console: Console) -> None:
    """The two runs side by side."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in records:
        table.add_column(name, justify="right")
    rows: tuple[tuple[str, Callable[[Record], int]], ...] = (
        ("messages", lambda r: len(r.written)),
        ("second thoughts", lambda r: r.second_thoughts),
        ("replies", lambda r: r.replies),
        ("replies dropped in time", lambda r: r.dropped),
        ("turns with two replies", lambda r: r.doubled),
        ("messages unanswered", lambda r: r.unanswered),
    )
    for title, value in rows:
        table.add_row(title, *(str(value(record)) for record in records.values()))
    console.print(table)


def main() -> None:
    """Play it, print it; exit 1 if `commit()` did not keep its promise."""
    parser = argparse.ArgumentParser(prog="python -m bench.chat", description=__doc__)
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--speed", type=float, default=20)
    options = parser.parse_args()
    script = Script(conversations=options.conversations, turns=options.turns, speed=options.speed)
    records = asyncio.run(play(script))
    show(records, Console())
    kept = records["with commit()"]
    sys.exit(1 if kept.doubled or any(record.unanswered for record in records.values()) else 0)


if __name__ == "__main__":
    main()
