"""The race as a section of a page, and as JSON."""

import dataclasses
import json
from collections.abc import Sequence

from tests.torture.edge_race.contestant import WINDOW_S
from tests.torture.edge_race.table import Row

_TITLES = {
    "Tidegate": "Tidegate",
    "original": "the replaced system, as it was",
    "repaired": "the replaced system, after its planned repair",
    "naive": "`RPUSH`, later `LRANGE` and `DEL`",
}

_ABOUT = f"""\
## The end of a window

Several processes add messages at the same time, aimed at 3 ms before to 3 ms after the end of a
window: there a message can fall between two stools. All contestants get the same load, in turns, on
the same store. Windows last {WINDOW_S * 1000:.0f} ms here instead of 8 s, and the times of the
replaced system are shorter in the same ratio.

- Lost: acknowledged, and in no batch.
- Doubled: in two batches.
- Out of order: came after a message that was sent only when this one had been acknowledged.
- Writers that end: about twice a second each writing process ends after its answers, as serverless
  functions do, and another one takes its place. What it kept in memory, such as a timer, is gone.
- Slowest: one answer in a hundred took longer, in the worst run.

The stand-ins are written as their descriptions say, and what those leave open is read in their
favour. Most messages are aimed, so compare the rows; the rates are not those of a usual day.

"""
_AGAIN = """
    python -m tests.torture.edge_race    # to repeat it
"""


def markdown(rows: Sequence[Row]) -> str:
    """The section, with its title and a line of how to repeat it."""
    head = ("", "writers", "acknowledged", "lost", "doubled", "out of order", "slowest")
    lines = [_line(head), "|---|---|---:|---:|---:|---:|---:|", *map(_row, rows)]
    return _ABOUT + "\n".join(lines) + "\n" + _AGAIN


def _row(row: Row) -> str:
    counts = row.counts
    numbers = (counts.acknowledged, counts.lost, counts.doubled, counts.disordered)
    writers = "end" if row.ends else "stay"
    shown = (f"{number:,}" for number in numbers)
    return _line((_TITLES[row.contestant], writers, *shown, f"{row.slowest_ms:.0f} ms"))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_json(rows: Sequence[Row]) -> str:
    """The same for programs."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
