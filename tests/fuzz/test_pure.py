"""A short walk through the pure targets; `python -m tests.fuzz` goes further."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.pure import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_any_bytes_are_understood_or_refused(target: Target):
    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.binary(max_size=200))
    def walk(data: bytes) -> None:
        target(data)

    walk()
