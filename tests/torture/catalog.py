"""All lines of the scorecard, in its order."""

from importlib import import_module

from tests.torture.score import Line

_MODULES = (
    "tests.torture.lines.kills",
    "tests.torture.lines.points",
    "tests.torture.lines.stores",
    "tests.torture.lines.simulation",
    "tests.torture.lines.network",
    "tests.torture.lines.rolling",
    "tests.torture.lines.poison",
    "tests.torture.lines.planted",
    "tests.torture.lines.power_cut",
    "tests.torture.lines.disk_full",
    "tests.torture.lines.memory_full",
    "tests.torture.lines.clock_jumps",
    "tests.torture.lines.versions",
    "tests.torture.lines.failover",
    "tests.torture.lines.edge",
)
"""A line each. Every module has a tuple LINES."""


def lines() -> list[Line]:
    """Every line. Their names differ."""
    return [line for name in _MODULES for line in import_module(name).LINES]
