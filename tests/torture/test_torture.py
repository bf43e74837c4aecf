"""Every line of the scorecard, in its short dose."""

import random
from pathlib import Path

import pytest

from tests.torture.catalog import lines
from tests.torture.score import Dose, Line

every_line = pytest.mark.parametrize("line", [pytest.param(line, id=line.name) for line in lines()])


@every_line
async def test_a_line_of_the_scorecard_holds(line: Line, tmp_path: Path):
    if why_not := line.missing():
        pytest.skip(why_not)
    dose = Dose(*line.short, seed=random.getrandbits(32), directory=tmp_path)
    print(f"python -m tests.torture {line.name!r} --short --seed {dose.seed}")
    score = await line.run(dose)
    assert score.contradictions == () or score.expected_loss
    assert score.holds
    assert score.faults > 0
