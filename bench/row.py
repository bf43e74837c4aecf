"""What a measurement is: a row of the table, and how much is measured for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. `scale` shortens counts and times; figures of a small one say little."""

    rounds: int
    scale: float

    def count(self, full: int) -> int:
        """So many of a thing, or fewer."""
        return max(1, round(full * self.scale))

    def seconds(self, full: float) -> float:
        """So long, or less."""
        return full * self.scale


FULL = Size(rounds=5, scale=1.0)
QUICK = Size(rounds=1, scale=0.05)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the median."""

    bound: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is on the right side."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.bound)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure: a sample of each round, and what to know about them."""

    name: str
    samples: Sequence[float]
    unit: str = ""
    goal: Goal | None = None
    note: str = ""

    @property
    def figure(self) -> float:
        """The median of the rounds."""
        return median(self.samples)

    @property
    def shown(self) -> str:
        """The figure as text."""
        return number(self.figure)

    @property
    def spread(self) -> str:
        """The least and the most of the rounds."""
        return f"{number(min(self.samples))} to {number(max(self.samples))}"

    @property
    def reached(self) -> str:
        """✓ or ✗; empty without a goal."""
        if self.goal is None:
            return ""
        return "✓" if self.goal.holds(self.figure) else "✗"


def number(value: float) -> str:
    """Three digits that count, as people write them."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: Sequence[float]) -> dict[str, float]:
    """The middle, the slowest hundredth and the worst."""
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values)}
