"""What a replay shows: how far it is, and the verdict."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tidegate_server.cli import output
from tidegate_server.cli.replay.play import Player
from tidegate_server.cli.verdict import Figures, Verdict

_EXAMPLES = 5
_TICK_S = 0.2


@asynccontextmanager
async def progress(player: Player) -> AsyncGenerator[None]:
    """Says on standard error how far the player is: a bar, or a line for each tenth if piped."""
    terminal = output.console(stderr=True).is_terminal
    ticker = asyncio.create_task(_bar(player) if terminal else _lines(player))
    try:
        yield
    finally:
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker


async def _bar(player: Player) -> None:
    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[said]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=player.total, said="")
        while True:
            bar.update(task, completed=player.received, said=_said(player))
            await asyncio.sleep(_TICK_S)


async def _lines(player: Player) -> None:
    console, next_tenth = output.console(stderr=True), 1
    while True:
        if (tenth := 10 * player.received // player.total) >= next_tenth:
            console.print(f"{10 * tenth:3} %  {_said(player)}")
            next_tenth = tenth + 1
        await asyncio.sleep(_TICK_S)


def _said(player: Player) -> str:
    return f"{player.added:,} of {player.total:,} messages in, {player.batches:,} batches out"


def verdict(found: Verdict, took_s: float) -> None:
    """The figures and the checks, with examples of what does not hold."""
    console = output.console()
    table = output.facts()
    for name, value in _rows(found.figures, took_s):
        table.add_row("", name, value)
    console.print("", table, "", sep="\n")
    for check in found.checks:
        console.print(Text("  ✗ ", "red") if check.failures else Text("  ✓ ", "green"), end="")
        console.print(check.name, end="")
        console.print(
            Text(f": not so {len(check.failures):,} times" if check.failures else "", "red")
        )
        for example in check.failures[:_EXAMPLES]:
            console.print("      ", output.cell(example, "dim"), sep="", soft_wrap=True)
    console.print()


def _rows(figures: Figures, took_s: float) -> list[tuple[str, str]]:
    rows = [
        ("messages in", f"{figures.messages_in:,}"),
        ("batches out", f"{figures.batches_out:,}"),
    ]
    if figures.sizes:
        mean, most = sum(figures.sizes) / len(figures.sizes), max(figures.sizes)
        late = [figures.late_at(share) for share in (0.5, 0.99, 1)]
        rows += [
            ("messages per batch", f"{mean:.2f} on average, {most} at most"),
            ("batches late by", "{} ms p50, {} ms p99, {} ms at most".format(*late)),
        ]
    return [
        *rows,
        ("delivered again", f"{figures.delivered_again:,}"),
        ("took", output.seconds(took_s)),
    ]


def as_json(found: Verdict, took_s: float) -> dict[str, object]:
    """The verdict for programs."""
    figures = found.figures
    return {
        "holds": found.holds,
        "messages_in": figures.messages_in,
        "batches_out": figures.batches_out,
        "delivered_again": figures.delivered_again,
        "largest_batch": max(figures.sizes, default=0),
        "late_ms": {
            name: figures.late_at(share) if figures.late_ms else None
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        },
        "took": round(took_s, 3),
        "checks": {
            check.name: {"failures": len(check.failures), "examples": check.failures[:_EXAMPLES]}
            for check in found.checks
        },
    }
