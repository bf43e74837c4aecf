import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.engine.support import until
from tidegate_server.engine.clock import StoreClock
from tidegate_server.engine.wakeup import Timers


class Rung:
    """Timers over the wall clock that write down what went off, and when."""

    def __init__(self) -> None:
        self.clock = StoreClock()
        self.clock.observe(time.time_ns() // 1_000_000, self.clock.local_ms())
        self.keys: list[str] = []
        self.late_ms: list[int] = []
        self.failures = 0
        self.timers = Timers[str](self.clock, self.fire)

    def fire(self, due: list[tuple[int, str]]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self.late_ms += [now_ms - at_ms for at_ms, _ in due]
        self.keys += [key for _, key in due]
        if self.failures:
            self.failures -= 1
            raise RuntimeError("planted")

    def set(self, key: str, in_ms: int) -> None:
        self.timers.set(key, self.clock.now_ms() + in_ms)


@pytest.fixture
async def rung() -> AsyncIterator[Rung]:
    rung = Rung()
    yield rung
    rung.timers.stop()


async def test_goes_off_in_time_and_in_order(rung: Rung):
    for key, in_ms in [("c", 30), ("a", 10), ("b", 20)]:
        rung.set(key, in_ms)
    await until(lambda: len(rung.keys) == 3)
    assert rung.keys == ["a", "b", "c"]
    assert min(rung.late_ms) >= 0


async def test_is_seldom_late(rung: Rung):
    for n in range(50):
        rung.set(str(n), 5 + 2 * n)
    await until(lambda: len(rung.keys) == 50)
    assert sorted(rung.late_ms)[25] <= 5


async def test_the_newest_time_of_a_key_wins(rung: Rung):
    rung.set("later", 5)
    rung.set("later", 60)
    rung.set("sooner", 50_000)
    rung.set("sooner", 20)
    rung.set("between", 40)
    await until(lambda: len(rung.keys) == 3)
    assert rung.keys == ["sooner", "between", "later"]
    assert len(rung.timers) == 0


async def test_one_that_is_taken_away_does_not_go_off(rung: Rung):
    rung.set("gone", 10)
    rung.set("kept", 20)
    rung.timers.discard("gone")
    await until(lambda: bool(rung.keys))
    assert rung.keys == ["kept"]


async def test_moving_a_key_for_ever_leaves_no_garbage(rung: Rung):
    for n in range(10_000):
        rung.set("later", 60_000 + n)
        rung.set("sooner", 60_000 - n)
        rung.set(f"gone {n}", 60_000)
        rung.timers.discard(f"gone {n}")
    assert len(rung.timers) == 2
    assert len(rung.timers._heap) < 1_000


async def test_thousands_at_once_leave_others_their_turn(rung: Rung):
    turns = 0
    for n in range(5_000):
        rung.set(str(n), -1)
    while len(rung.keys) < 5_000:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 5
    assert len(set(rung.keys)) == 5_000


async def test_a_failure_does_not_stop_the_next_timer(rung: Rung):
    rung.failures = 1
    rung.set("first", 1)
    rung.set("second", 20)
    await until(lambda: len(rung.keys) == 2)


async def test_nothing_goes_off_after_the_stop(rung: Rung):
    rung.set("one", 1)
    rung.timers.stop()
    rung.set("two", 1)
    await asyncio.sleep(0.01)
    assert rung.keys == []
