"""The scorecard: on the screen while it grows, and as a page of the documentation."""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Group
from rich.table import Table

from tests.support.stores import binaries
from tests.torture.run import Result, Run

COLUMNS = (
    *("fault", "expected", "faults", "acknowledged", "lost", "in two batches"),
    *("out of order", "other", "seconds", "seed", "verdict"),
)
_TEXTS = ("fault", "expected", "verdict")
_PACKAGES = ("tidegate", "grpcio", "protobuf", "uvloop", "redis", "hiredis")
_TEMPLATE = Path(__file__).with_name("reliability.md.in")


def verdict(result: Result) -> str:
    """One word."""
    if result.missing:
        return "not run"
    if result.score is None:
        return "failed"
    return "holds" if result.holds else "BROKEN"


def rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """The cells of each line."""
    for result in results:
        score = result.score
        counts = ("",) * 6
        if score:
            found = score.lost + score.doubled + score.disordered
            other = max(0, len(score.contradictions) - found)
            numbers = (score.faults, score.acknowledged, score.lost, score.doubled)
            counts = tuple(f"{n:,}" for n in (*numbers, score.disordered, other))
        seconds = f"{result.seconds:.0f}" if score else ""
        yield result.name, result.expected, *counts, seconds, str(result.seed), verdict(result)


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What cannot be said in a cell."""
    for result in results:
        if result.missing:
            yield f"{result.name}: not run; {result.missing}"
        elif result.failure:
            yield f"{result.name}: failed with seed {result.seed}: {result.failure}"
        elif result.score and result.score.note:
            yield f"{result.name}: {result.score.note}"
        if result.score and not result.holds:
            yield from (f"{result.name}: {said}" for said in result.score.contradictions)


def sections(results: Sequence[Result]) -> Iterator[str]:
    """What lines say on the page beside the scorecard."""
    for result in results:
        if result.score and result.score.section:
            yield result.score.section


def table(results: Sequence[Result]) -> Table:
    """For the screen: all but what is expected."""
    drawn = Table(box=None, header_style="bold")
    for column in (COLUMNS[0], *COLUMNS[2:]):
        drawn.add_column(column, justify="left" if column in _TEXTS else "right", no_wrap=True)
    for result, (fault, _, *cells) in zip(results, rows(results), strict=True):
        drawn.add_row(fault, *cells, style=None if result.holds or result.missing else "red")
    return drawn


def live(run: Run) -> Group:
    """What is done, what is under way, what waits."""
    going = Table(box=None, show_header=False)
    for one in run.going:
        faults, messages = one.progress
        going.add_row(
            one.result.name,
            f"{faults:,} of {one.result.faults:,} faults",
            f"{messages:,} of {one.result.messages:,} messages",
            f"{time.monotonic() - one.begun_s:.0f} s",
        )
    waiting = len(run.planned) - len(run.results) - len(run.going)
    return Group(table(run.results), "", going, f"{waiting} more to come")


def page(results: Sequence[Result], *, about: str) -> str:
    """The page, in Markdown. `about` says which doses were run."""
    rules = "|".join("---" if column in _TEXTS else "---:" for column in COLUMNS)
    lines = [f"| {' | '.join(cells)} |" for cells in rows(results)]
    scorecard = "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{rules}|", *lines])
    return (
        _TEMPLATE.read_text()
        .replace("{{scorecard}}", scorecard)
        .replace("{{tables}}", "\n\n".join(_tables(results)))
        .replace("{{notes}}", "\n".join(f"- {note}" for note in notes(results)))
        .replace("{{sections}}", "\n".join(sections(results)))
        .replace("{{machine}}", "\n".join(f"- {line}" for line in machine(about)))
    )


def _tables(results: Sequence[Result]) -> Iterator[str]:
    """What some lines have to say besides."""
    for result in results:
        if result.score and result.score.table:
            head, *body = (f"| {' | '.join(row)} |" for row in result.score.table)
            yield "\n".join([f"### {result.name}", "", head, "|---|---|", *body])


def machine(about: str) -> list[str]:
    """When, where and with what."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    stores = ", ".join(name for name, _ in binaries())
    return [
        f"{datetime.now(UTC).date()}, {about}",
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}",
        packages,
        f"stores: {stores}",
    ]
