import asyncio
from datetime import timedelta

import pytest

from tidegate import NackAction, _delivery
from tidegate.v1 import delivery_service_pb2 as delivery_pb2


def test_the_wait_between_streams_doubles_up_to_a_bound():
    backoff = _delivery.Backoff()
    waits = [backoff.failed_s() for _ in range(20)]
    ceilings = [min(0.1 * 2**n, 5) for n in range(20)]
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, ceilings, strict=True))


def test_a_stream_that_worked_starts_the_wait_anew():
    backoff = _delivery.Backoff()
    for _ in range(10):
        backoff.failed_s()
    backoff.succeeded()
    assert backoff.failed_s() <= 0.1


def test_the_server_may_ask_for_a_longer_wait():
    assert _delivery.Backoff().failed_s(timedelta(seconds=30)) == 30


def test_a_drained_stream_is_replaced_at_once_but_not_in_a_tight_loop():
    backoff = _delivery.Backoff()
    assert backoff.drained_s() == 0
    assert backoff.drained_s() > 0
    backoff.succeeded()
    assert backoff.drained_s() == 0


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (ValueError(), NackAction.RETRY),
        (asyncio.CancelledError(), NackAction.RELEASE),
        (KeyboardInterrupt(), NackAction.RELEASE),
        (SystemExit(), NackAction.RELEASE),
    ],
)
def test_a_failure_is_retried_and_a_departure_releases(error: BaseException, action: NackAction):
    assert _delivery.nack_for(error) is action


def test_silence_is_three_heartbeats_and_bounded_where_none_is_announced():
    opened = delivery_pb2.SubscriptionOpened()
    assert _delivery.longest_silence_s(opened) == 30
    opened.heartbeat_interval.FromSeconds(5)
    assert _delivery.longest_silence_s(opened) == 15


def test_the_subscriber_is_named_after_its_host_within_the_limit():
    assert 0 < len(_delivery.default_subscriber_id()) <= 128
