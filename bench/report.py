"""The table, on the terminal and as a page."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.row import Row

COLUMNS = ("what", "figure", "spread", "goal", "reached")

_PAGE = """# Performance

Measured by `make bench` on {date}. Figures are those of one machine: trust the ratios, and
repeat the rest on yours.

| {columns} |
|{rules}|
{lines}

{notes}

The figure is the median of the rounds, the spread the least and the most of them. A goal is for
the figure.

## The machine

{machine}

## How it is measured

- Server, store and load generators are processes of their own on one machine and share its
  processors, over loopback. The store is the embedded one, with its default durability.
- Messages have 200 bytes of text and ids of their own. Adds go to 5,000 conversations in turn.
- The echo server is a bare `grpc.aio` server on uvloop that sends the request's bytes back. Its
  rounds and those of Tidegate alternate.
- The latency of adds is that of an open loop: messages are sent at their times, whatever earlier
  answers take.
- Lateness is counted from the end of a buffer's window: to its sealing in the store, and to its
  arrival at the subscriber. Both clocks are the machine's.
- Peers work on the same store, a Valkey with the embedded store's settings, in rounds that take
  turns with Tidegate's; each ratio is of two rounds that follow each other. Their libraries run
  in the process that calls them, so that process is a part of them. They are installed on first
  use; one that cannot be had is left out, and the table says so.
- A load generator that is 90 % busy or more is named: then the figure is the least that the
  server can do.

## To repeat it

    make bench                                   # all of it, some minutes; writes this page
    .venv/bin/python -m bench --only latency     # one group of rows
    .venv/bin/python -m bench --quick            # a smoke run of seconds; its figures say little

Let nothing else run meanwhile. It needs Linux, and the `dev` extra.
"""


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    drawn = Table(box=SIMPLE_HEAD)
    for column in COLUMNS:
        drawn.add_column(column, justify="left" if column == "what" else "right")
    for row, cells in zip(rows, _cells(rows), strict=True):
        drawn.add_row(*cells, style="red" if row.reached == "✗" else None)
    return drawn


def notes(rows: Sequence[Row]) -> list[str]:
    """Each note once; the rows refer to them by number."""
    return list(dict.fromkeys(row.note for row in rows if row.note))


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    numbers = {note: f" [{n}]" for n, note in enumerate(notes(rows), 1)}
    for row in rows:
        goal = f"{row.goal} {row.unit}".strip() if row.goal else ""
        figure = f"{row.shown} {row.unit}".strip()
        yield row.name + numbers.get(row.note, ""), figure, row.spread, goal, row.reached


def page(rows: Sequence[Row], machine: Sequence[str]) -> str:
    """For the documentation, in Markdown."""
    return _PAGE.format(
        date=datetime.now(UTC).date(),
        columns=" | ".join(COLUMNS),
        rules="|".join("---" if column == "what" else "---:" for column in COLUMNS),
        lines="\n".join(f"| {' | '.join(cells)} |" for cells in _cells(rows)),
        notes="\n".join(f"- [{n}] {note}" for n, note in enumerate(notes(rows), 1)),
        machine="\n".join(f"- {line}" for line in machine),
    )


def show(rows: Sequence[Row], machine: Sequence[str], console: Console) -> None:
    """Print the table, its notes and where it comes from."""
    console.print(table(rows))
    numbered = [f"[{n}] {note}" for n, note in enumerate(notes(rows), 1)]
    for line in (*numbered, *machine):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
