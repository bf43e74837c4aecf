"""Messages aimed at the ends of windows; what Tidegate replaces gets the same load beside it."""

from collections.abc import Sequence

from tests.torture.edge_race.page import markdown
from tests.torture.edge_race.run import WINDOW_MESSAGES
from tests.torture.edge_race.table import Row, table
from tests.torture.score import Dose, Line, Score


async def _race(dose: Dose) -> Score:
    rows = await table(dose)
    ours = [row for row in rows if row.contestant == "Tidegate"]
    acknowledged = sum(row.counts.acknowledged for row in ours)
    return Score(
        faults=acknowledged // WINDOW_MESSAGES,
        acknowledged=acknowledged,
        lost=sum(row.counts.lost for row in ours),
        doubled=sum(row.counts.doubled for row in ours),
        disordered=sum(row.counts.disordered for row in ours),
        contradictions=(
            *(sentence for row in ours for sentence in row.contradictions),
            *_proves_nothing(rows),
        ),
        note="what Tidegate replaces gets the same load: see the table of the race",
        section=markdown(rows),
    )


def _proves_nothing(rows: Sequence[Row]) -> list[str]:
    """Each stand-in must lose messages under one kind of writers, or the load is no load."""
    lost: dict[str, int] = {}
    for row in rows:
        lost[row.contestant] = lost.get(row.contestant, 0) + row.counts.lost
    return [
        f"the load proves nothing: {name} has lost no message"
        for name, number in lost.items()
        if name != "Tidegate" and not number
    ]


LINES = (
    Line(
        "messages aimed at the end of a window",
        _race,
        short=(1, 1_000),
        long=(1, 1_000_000),
    ),
)
