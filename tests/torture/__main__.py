"""`python -m tests.torture`: run the lines of the scorecard, and write the page."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tests.torture import report
from tests.torture.catalog import lines
from tests.torture.run import RESULTS, Result, Run, fresh_seed, load, plan, run_here
from tests.torture.score import Dose, Line

_PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
_LONG_RUN_MINUTES = 60


def main() -> None:
    """Do what the arguments ask for; exit code 1 if a line does not hold."""
    options = _options()
    chosen = _chosen(options.line)
    if options.apart:
        dose = Dose(options.faults, options.messages, options.seed, options.apart)
        run_here(chosen[0], dose)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to stop, leave nothing behind
    console = Console(width=None if sys.stdout.isatty() else 160)
    about = _about(options)
    if options.print:
        results, about = load(options.results)
    else:
        results = _run(chosen, options, console, about)
    console.print(report.table(results))
    for note in report.notes(results):
        console.print(note, style="dim", highlight=False, markup=False)
    if page := options.out or (None if options.short or options.line else _PAGE):
        page.write_text(report.page(results, about=about))
        console.print(f"written to {page}", style="dim")
    sys.exit(0 if all(result.holds or result.missing for result in results) else 1)


def _run(
    chosen: Sequence[Line], options: argparse.Namespace, console: Console, about: str
) -> list[Result]:
    def dose_of(line: Line) -> tuple[int, int]:
        if options.short:
            return line.short
        share = options.minutes / _LONG_RUN_MINUTES
        faults, messages = (
            max(short, round(long * share))
            for short, long in zip(line.short, line.long, strict=True)
        )
        return options.faults or faults, options.messages or messages

    planned = plan(chosen, seed=options.seed, dose_of=dose_of)
    run = Run(planned, lanes=options.lanes, keep=options.results, about=about)
    with Live(console=console, get_renderable=lambda: report.live(run), transient=True):
        try:
            asyncio.run(run.run())
        except KeyboardInterrupt:
            sys.exit("interrupted; --print shows what came out so far")
    return run.results


def _about(options: argparse.Namespace) -> str:
    if options.short:
        return f"the short doses, seed {options.seed}"
    return f"the doses of {options.minutes:g} minutes, seed {options.seed}"


def _chosen(names: Sequence[str]) -> list[Line]:
    """The lines whose names hold one of these texts; all without any."""
    found = [line for line in lines() if not names or any(name in line.name for name in names)]
    exact = [line for line in found if line.name in names]
    if not found:
        there = "\n  ".join(line.name for line in lines())
        sys.exit(f"no line is called {' or '.join(names)}; there are\n  {there}")
    return exact or found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description="Hurts servers, stores and the network under load, and counts what got lost.",
    )
    add = parser.add_argument
    add("line", nargs="*", help="a line's name, or a part of it; none: all")
    add("--minutes", type=float, default=_LONG_RUN_MINUTES, help="about how long all lines take")
    add("--seed", type=int, default=fresh_seed(), help="repeat a run")
    add("--short", action="store_true", help="the doses of the tests: seconds")
    add("--lanes", type=int, default=2, help="lines at a time")
    add("--out", type=Path, help="where to write the page; default: docs, for all lines")
    add("--results", type=Path, default=RESULTS, help="where results are kept as they come")
    add("--print", action="store_true", help="run nothing; show what is kept")
    add("--faults", type=int, default=0, help="another number of faults")
    add("--messages", type=int, default=0, help="another number of messages")
    add("--apart", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
