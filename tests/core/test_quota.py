"""Limits of what may wait."""

import pytest

from tidegate_server.core.quota import Limit, Quota, first_passed, may_grow, retry_after_ms


@pytest.mark.parametrize("limit", Limit)
def test_a_limit_may_be_reached_and_not_be_passed(limit: Limit):
    name = limit.name.lower()
    quota = Quota()._replace(**{name: 5})
    assert first_passed(quota, Quota()._replace(**{name: 5})) is None
    assert first_passed(quota, Quota()._replace(**{name: 6})) is limit


def test_nothing_is_limited_by_0():
    assert first_passed(Quota(), Quota(*[1 << 60] * len(Limit))) is None


def test_the_limits_are_named_as_the_numbers_are_and_looked_at_in_their_order():
    assert [limit.name.lower() for limit in Limit] == list(Quota._fields)
    assert first_passed(Quota(*[1] * len(Limit)), Quota(0, 0, *[2] * 4)) is Limit(3)


def test_a_buffer_that_is_over_its_limit_may_shrink():
    quota = Quota(conversation_bytes=100)
    assert may_grow(quota, 150, 120)
    assert may_grow(quota, 50, 100)
    assert not may_grow(quota, 50, 101)
    assert not may_grow(quota, 150, 151)


@pytest.mark.parametrize(
    ("limit", "due_ms", "wait_ms"),
    [
        (Limit.CONVERSATION_BYTES, 5_000, 4_000),
        (Limit.CONVERSATION_MESSAGES, 900, 1_000),
        (Limit.CONVERSATION_MESSAGES, None, 1_000),
        (Limit.INSTANCE_MESSAGES, 5_000, 1_000),
        (Limit.STORE_BUFFERS, None, 1_000),
    ],
)
def test_room_is_expected_when_the_conversation_is_due_or_soon(
    limit: Limit, due_ms: int | None, wait_ms: int
):
    assert retry_after_ms(limit, due_ms, 1_000) == wait_ms
