"""The engine in virtual time keeps its promise, and a simulation of a broken one says so."""

import asyncio
import itertools
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.repository.paths import ROOT
from tests.simulation.loop import Deadlock, VirtualLoop
from tests.simulation.run import stretch, stretches
from tidegate_server.engine.engine import Engine
from tidegate_server.engine.recoverer import Recoverer
from tidegate_server.engine.scheduler import Scheduler
from tidegate_server.sinks.stream import Subscriber, Subscribers

HOURS = 36.0


def test_hours_of_faults_contradict_nothing():
    seed = random.getrandbits(32)
    print(f"python -m tests.simulation --hours {HOURS:g} --seed {seed}")
    outcomes = list(stretches(seed, HOURS))
    assert [(one.seed, one.contradictions) for one in outcomes if one.contradictions] == []
    assert sum(one.messages for one in outcomes) > 500
    assert sum(one.faults for one in outcomes) > 100


def test_a_seed_repeats_everything_exactly():
    first, second, other = (stretch(seed, hours=3) for seed in (5, 5, 6))
    assert first == second
    assert first.trace != other.trace


def test_a_seed_repeats_everything_in_another_process():
    command = [sys.executable, "-m", "tests.simulation", "--hours", "3", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"trace {stretch(5, hours=3).trace[:12]}\n" in done.stdout


def forget_timers(patch: pytest.MonkeyPatch) -> None:
    schedule, turns = Scheduler.schedule, itertools.count()

    def forgets(self: Scheduler, *args: object) -> None:
        if next(turns) % 10:
            schedule(self, *args)  # pyright: ignore[reportArgumentType]  # as they came

    patch.setattr(Scheduler, "schedule", forgets)


def overlook_leases(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: Recoverer) -> None:
        horizon = await self._store.horizon(limit=256)
        self._outage.back()
        self._survey(horizon)

    patch.setattr(Recoverer, "sweep", sweep)


def lose_releases(patch: pytest.MonkeyPatch) -> None:
    drain = Subscribers.drain

    def loses(self: Subscribers, closing: object) -> list[object]:
        drain(self, closing)  # pyright: ignore[reportArgumentType]  # as it came
        return []

    patch.setattr(Subscribers, "drain", loses)


def nothing(*_: object) -> None:
    pass


def hear_and_see_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_heard", nothing)
    patch.setattr(Scheduler, "survey", nothing)


def keep_credits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscriber, "drop", nothing)


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (forget_timers, "late in calm weather"),
        (overlook_leases, "not all was settled in time"),
        (lose_releases, "was not given back by a drain"),
        (hear_and_see_nothing, "not all was settled in time"),
        (keep_credits, "not all was settled in time"),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], sentence: str, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch)
    assert any(
        sentence in contradiction
        for outcome in stretches(1, HOURS)
        for contradiction in outcome.contradictions
    )


def test_the_clock_jumps_to_the_next_timer():
    async def sleep() -> list[float]:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.gather(asyncio.sleep(86_400), asyncio.sleep(3_600))
        return [begun_s, loop.time()]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(sleep()) == pytest.approx([0.0, 86_400.0])


def test_a_wait_that_nothing_can_end_is_said():
    async def wait() -> None:
        await asyncio.Event().wait()

    loop = VirtualLoop()
    task = loop.create_task(wait())
    with pytest.raises(Deadlock):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
