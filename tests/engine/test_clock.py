import random

from tidegate_server.engine.clock import StoreClock


class Worlds:
    """Our clock and the store's, `ahead_ms` apart, moved by the test."""

    def __init__(self, ahead_ms: float = 1_700_000_000_000.4):
        self.local = 1_000.0
        self.ahead_ms = ahead_ms
        self.clock = StoreClock(monotonic=lambda: self.local / 1_000)

    @property
    def store_ms(self) -> int:
        return int(self.local + self.ahead_ms)

    def ask(self, there_ms: float, back_ms: float) -> None:
        sent = self.clock.local_ms()
        self.local += there_ms
        at_ms = self.store_ms
        self.local += back_ms
        self.clock.observe(at_ms, sent)


def test_is_never_ahead_of_the_store_and_soon_close_to_it():
    worlds, dice = Worlds(), random.Random(1)
    for _ in range(200):
        worlds.ask(dice.uniform(0.1, 40), dice.uniform(0.1, 40))
        assert worlds.clock.now_ms() <= worlds.store_ms
    assert worlds.store_ms - worlds.clock.now_ms() <= 3


def test_a_slow_answer_changes_nothing():
    worlds = Worlds()
    worlds.ask(0.1, 0.1)
    before = worlds.clock.wait_s(worlds.store_ms + 500)
    worlds.ask(0, 400)
    assert abs(worlds.clock.wait_s(worlds.store_ms + 500) - before) <= 0.002


def test_follows_a_store_whose_clock_is_set_back_at_once():
    worlds = Worlds()
    worlds.ask(1, 1)
    worlds.ahead_ms -= 3_600_000
    worlds.ask(1, 1)
    assert 0 <= worlds.store_ms - worlds.clock.now_ms() <= 3


def test_says_when_the_store_s_clock_was_set_back_and_not_when_it_was_set_forward():
    worlds, said = Worlds(), list[str]()
    worlds.clock.on_set_back = lambda: said.append("back")
    worlds.ask(1, 1)
    worlds.ahead_ms += 3_600_000
    worlds.ask(1, 1)
    worlds.ahead_ms -= 500
    worlds.ask(1, 1)
    assert not said
    worlds.ahead_ms -= 5_000
    worlds.ask(1, 1)
    assert said == ["back"]


def test_follows_a_store_whose_clock_is_set_forward_at_once():
    worlds = Worlds()
    worlds.ask(1, 1)
    worlds.ahead_ms += 3_600_000
    worlds.ask(1, 1)
    assert 0 <= worlds.store_ms - worlds.clock.now_ms() <= 3


def test_stays_behind_a_store_whose_clock_is_slower_than_ours():
    worlds = Worlds()
    for _ in range(60):
        worlds.ask(0.2, 0.2)
        worlds.local += 1_000
        worlds.ahead_ms -= 0.05
        assert worlds.clock.now_ms() <= worlds.store_ms + 1


def test_after_the_wait_the_time_has_come():
    worlds = Worlds()
    worlds.ask(3, 2)
    until_ms = worlds.store_ms + 250
    worlds.local += worlds.clock.wait_s(until_ms) * 1_000
    assert worlds.clock.now_ms() >= until_ms
    assert worlds.store_ms >= until_ms
