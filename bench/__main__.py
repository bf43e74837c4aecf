"""`python -m bench`: run the groups of rows one after the other, print and write the table."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench import adds, footprint, latency, lateness, machine, report
from bench.child import MeasureError
from bench.peers import rows as peers
from bench.process import Server
from bench.row import FULL, QUICK, Row

GROUPS = {
    "adds": adds.rows,
    "latency": latency.rows,
    "lateness": lateness.rows,
    "footprint": footprint.rows,
    "peers": peers.rows,
}
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    """Measure what the arguments ask for."""
    options = _options()
    if not machine.supported():
        sys.exit("The benchmark looks at processes in Linux's way; run it on Linux.")
    console = Console()
    with Server() as server:
        where = machine.describe(server.store)
    if crowded := machine.crowded():
        where.append(f"not alone on the machine: {crowded}")
        console.print(where[-1], style="yellow")
    rows, failed = list[Row](), list[str]()
    for name in options.only or GROUPS:
        console.print(f"measuring {name} …", style="dim")
        try:
            rows += GROUPS[name](QUICK if options.quick else FULL)
        except MeasureError as error:
            failed.append(f"{name} could not be measured: {error}")
    report.show(rows, where, console)
    if failed:
        sys.exit("\n".join(failed))
    page = options.page or (None if options.only or options.quick else PAGE)
    if page:
        page.write_text(report.page(rows, where))
        console.print(f"written to {page}", style="dim")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures Tidegate.")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--only", action="append", choices=GROUPS, help="one group; may repeat")
    parser.add_argument("--page", type=Path, help="where to write the page; default: docs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
