"""The life of a batch as a table, and the waits between its attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_server.core.delivery import FINAL, NACK_EVENTS, TRANSITIONS, Event, after
from tidegate_server.core.model import BatchState, NackAction
from tidegate_server.core.retry import RetryPolicy, backoffs


def test_a_final_state_is_left_by_no_step():
    assert not {state for state, _ in TRANSITIONS} & FINAL


def test_every_state_but_discarded_can_be_reached():
    assert set(TRANSITIONS.values()) == set(BatchState) - {BatchState.DISCARDED}


def test_every_way_to_nack_has_its_event():
    assert set(NACK_EVENTS) == set(NackAction)


def test_a_step_that_the_table_does_not_have_is_an_error():
    with pytest.raises(ValueError, match="ACK is no step from a buffer"):
        after(None, Event.ACK)
    with pytest.raises(ValueError, match="CLAIM is no step from COMPLETED"):
        after(BatchState.COMPLETED, Event.CLAIM)


def test_the_waits_double_from_a_second():
    assert backoffs(RetryPolicy()) == (1_000, 2_000, 4_000)
    assert RetryPolicy().max_attempts == 4


@given(st.integers(0, 20), st.floats(0, 1))
def test_jitter_only_lengthens_a_wait_and_by_a_tenth_at_most(retries: int, jitter: float):
    policy = RetryPolicy(retries=retries)
    plain, spread = backoffs(policy), backoffs(policy, jitter=jitter)
    assert len(spread) == retries
    assert all(wait <= late <= wait * 1.1 + 1 for wait, late in zip(plain, spread, strict=True))
    assert all(wait <= policy.cap_ms for wait in plain)
