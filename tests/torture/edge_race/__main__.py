"""`python -m tests.torture.edge_race`: run the race and print its table."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.torture.edge_race.page import as_json, markdown
from tests.torture.edge_race.table import MOST_OF_OTHERS, Row, table
from tests.torture.score import Dose


def main() -> None:
    """Run it as the arguments say. The exit code is 1 if Tidegate contradicts its promise."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edge-") as directory:
        dose = Dose(0, options.messages, options.seed, Path(directory))
        rows = asyncio.run(table(dose, others=options.others))
    print(markdown(rows))
    for row in rows:
        print(f"{row.contestant}: {row.messages:,} messages in {row.seconds:.0f} s")
    if options.out:
        options.out.write_text(as_json(rows))
    sys.exit(any(not _holds(row) for row in rows))


def _holds(row: Row) -> bool:
    for sentence in row.contradictions[:20]:
        print(sentence)
    return not row.contradictions


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.edge_race")
    parser.add_argument("--messages", type=int, default=1_000_000, help="for Tidegate")
    parser.add_argument("--others", type=int, default=MOST_OF_OTHERS, help="most for a stand-in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for the results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
