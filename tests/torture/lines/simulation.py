"""Days of simulated time: engines on the reference store, behind links that lose and repeat."""

import asyncio
import itertools

from tests.simulation.run import Outcome, stretch
from tests.torture.score import Dose, Line, Score


async def simulate(dose: Dose) -> Score:
    """Stretches of hours, until there were enough faults and messages."""
    seen, faults, messages = list[Outcome](), 0, 0
    for seed in itertools.count(dose.seed):
        if faults >= dose.faults and messages >= dose.messages:
            break
        seen.append(await asyncio.to_thread(stretch, seed))
        faults += seen[-1].faults
        messages += seen[-1].messages
        dose.tell(faults, messages)
    return Score(
        faults=faults,
        acknowledged=messages,
        contradictions=tuple(
            f"seed {one.seed}: {sentence}" for one in seen for sentence in one.contradictions
        ),
        note=f"{sum(one.hours for one in seen):,.0f} simulated hours",
    )


LINES = (
    Line(
        "servers, links and bots that fail in virtual time",
        simulate,
        short=(100, 300),
        long=(200_000, 300_000),
        expected="nothing lost, in two batches or out of order; on time in calm weather",
    ),
)
