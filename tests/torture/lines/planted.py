"""Bugs are planted in the server; the checker must find each, and none where there is none."""

import asyncio
import contextlib
import random
import shutil
import time
from datetime import timedelta
from pathlib import Path

from tests.end_to_end.traffic import Load, Reader, send, settle, window
from tests.support.history import History, Phase, Settlement, tally, violations
from tests.support.stores import StoreProcess, eventually
from tests.torture.bugs import BUGS, Bug, planted
from tests.torture.forks import ForkedServer, nursery
from tests.torture.score import Dose, Line, Score
from tidegate import Batch, Client, NackAction, NotFound

_LEASE = timedelta(seconds=1)
_LONGEST_S, _DRAIN_S = 6.0, 5.0
_WINDOW = window(0.03)
_HOPELESS = "hopeless"


class _Drill:
    """Traffic of every kind, with a store that hangs for a moment and a server that dies."""

    def __init__(self, servers: tuple[ForkedServer, ForkedServer], store: StoreProcess, seed: int):
        self.history = History()
        self._servers, self._store = servers, store
        self._chance = random.Random(seed)
        self._repeats = 0

    async def run(self) -> str | None:
        """The first contradiction; None if all is well in the end."""
        begun_s = time.monotonic()
        one, other = self._servers
        async with (
            Client(one.target) as first,
            Client(other.target) as second,
            self._reader(first),
            self._reader(second),
        ):
            async with Load([first, second], self.history, "bot", policy=_WINDOW):
                while time.monotonic() < begun_s + _LONGEST_S:
                    await self._hurt(second)
                    if found := violations(self.history, drained=False):
                        return found[0]
            with contextlib.suppress(TimeoutError):
                await eventually(lambda: self._is_over(second), within_s=_DRAIN_S)
        found = tally(self.history)
        return next(iter((*found.lost, *found.doubled, *found.disordered, *found.other)), None)

    def _reader(self, gate: Client) -> Reader:
        return Reader(gate, self.history, "bot", answer=self._answer, lease=_LEASE)

    async def _answer(self, batch: Batch) -> None:
        with contextlib.suppress(NotFound):  # the record says that it was never settled
            await self._see_to(batch)

    async def _see_to(self, batch: Batch) -> None:
        """Some come back, some are answered too late, some never come to a good end."""
        dice = self._chance.random()
        if batch.conversation.startswith(_HOPELESS) or (batch.attempt == 1 and dice < 0.1):
            await settle(self.history, batch, nack=NackAction.RETRY)
        else:
            if batch.attempt == 1 and dice < 0.2:
                await asyncio.sleep(self._chance.choice([1.3, 2.3]) * _LEASE.total_seconds())
            elif batch.attempt == 2 and dice < 0.7:
                await asyncio.sleep(0.7 * _LEASE.total_seconds())
            await settle(self.history, batch)

    async def _hurt(self, gate: Client) -> None:
        """Send what is sent twice and what cannot succeed; then kill a server."""
        self._repeats += 1
        for _ in range(2):
            chat = ("bot", f"user {self._repeats % 20}")
            await send(gate, self.history, chat, f"twice {self._repeats}", policy=_WINDOW)
        chat = ("bot", f"{_HOPELESS} {self._repeats}")
        await send(gate, self.history, chat, "m", policy=_WINDOW)
        await asyncio.sleep(0.2)
        victim = self._servers[0]
        self._store.pause()
        await asyncio.sleep(0.05)
        await victim.kill()
        self._store.resume()
        await victim.start()

    async def _is_over(self, gate: Client) -> bool:
        """Whether all is settled, by a subscriber or, as a dead letter, by the server."""
        async for letter in gate.dead_letters("bot"):
            if letter.conversation.startswith(_HOPELESS):
                settlement = Settlement(letter.batch_id, letter.attempt)
                self.history.end(self.history.invoke(settlement), Phase.OK, settlement)
        return self.history.drained()


async def _look_for(bug: Bug | None, directory: Path, seed: int) -> tuple[str | None, History]:
    """What the checker says of a server with the bug."""
    folder = planted(bug, directory / "planted")
    settings = {"retries": "2", "retry_base": "20ms"}
    with nursery(folder) as home:
        async with StoreProcess() as store:
            one, other = (
                ForkedServer(directory / name, home, store_url=store.user_url, **settings)
                for name in "ab"
            )
            try:
                await asyncio.gather(one.start(), other.start())
                drill = _Drill((one, other), store, seed)
                return await drill.run(), drill.history
            finally:
                for server in (one, other):
                    if server.running:
                        await server.kill()
                shutil.rmtree(folder)


async def _all_are_found(dose: Dose) -> Score:
    """A server without bugs, and each of them; only some, and quick ones, for a small dose."""
    chosen: list[Bug | None] = [None, *BUGS]
    if dose.faults < len(BUGS):
        quick = [bug for bug in BUGS if not bug.slow]
        chosen = [*random.Random(dose.seed).sample(quick, min(dose.faults, len(quick)))]
    rows: list[tuple[str, str]] = []
    wrong: list[str] = []
    messages = 0
    for n, bug in enumerate(chosen):
        directory = dose.directory / str(n)
        await asyncio.to_thread(directory.mkdir)
        begun_s = time.monotonic()
        said, history = await _look_for(bug, directory, dose.seed)
        messages += tally(history).acknowledged
        took = f"{time.monotonic() - begun_s:.0f} s"
        rows.append((bug.name if bug else "none", f"{said}, after {took}" if said else "nothing"))
        if bug and not said:
            wrong.append(f"nobody noticed that {bug.name}")
        if said and not bug:
            wrong.append(f"without any bug: {said}")
        dose.tell(n, messages)
    bugs = [bug for bug in chosen if bug]
    missed = sum(said == "nothing" for _, said in rows) - chosen.count(None)
    return Score(
        faults=len(bugs),
        acknowledged=messages,
        contradictions=tuple(wrong),
        note=f"{len(bugs) - missed} of {len(bugs)} were found",
        table=(("planted bug", "what the checker says"), *rows),
    )


LINES = (
    Line(
        "planted bugs",
        _all_are_found,
        short=(2, 1),
        long=(12, 1),
        expected="each is found, and none where there is none",
    ),
)
