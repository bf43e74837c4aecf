"""What an endpoint's answer means for the batch that was pushed to it. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

LONGEST_WAIT_MS = 3_600_000
"""The most that an endpoint may ask for."""


class Verdict(Enum):
    """What is to become of the batch."""

    ACK = "ack"
    RETRY = "retry"
    GONE = "gone"
    """As UNSENT, and nothing may be pushed to this endpoint any more."""
    UNSENT = "unsent"
    """It was not tried."""
    UNREADABLE = "unreadable"
    """It never can be tried."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a push ended: `reason` for programs, `message` for people, both kept with the attempt.

    `retry_after_ms` is the least wait that the endpoint asks for.
    """

    verdict: Verdict
    reason: str = ""
    message: str = ""
    retry_after_ms: int = 0


def of_status(status: int, retry_after: str | None, now: datetime) -> Outcome:
    """The outcome of an answer with this status and this Retry-After header."""
    reason, message = f"HTTP_{status}", f"the endpoint answered {status}"
    match status:
        case 410:
            return Outcome(Verdict.GONE, reason, message)
        case 408 | 425 | 429:
            return Outcome(Verdict.RETRY, reason, message, _wait_ms(retry_after, now))
        case _ if 200 <= status < 300:
            return Outcome(Verdict.ACK)
        case _ if status >= 500:
            return Outcome(Verdict.RETRY, reason, message, _wait_ms(retry_after, now))
        case _ if 300 <= status < 400:
            return Outcome(Verdict.RETRY, reason, message + ", a redirect, which is not followed")
        case _:
            return Outcome(Verdict.RETRY, reason, message)


def timed_out(timeout_s: float) -> Outcome:
    """The outcome of a push without an answer."""
    message = f"the endpoint did not answer within {timeout_s:.3g} s"
    return Outcome(Verdict.RETRY, "TIMEOUT", message)


def not_connected(why: str) -> Outcome:
    """The outcome of a push without a connection, or whose connection broke."""
    return Outcome(Verdict.RETRY, "CONNECT", f"the endpoint cannot be talked to: {why}")


def _wait_ms(retry_after: str | None, now: datetime) -> int:
    """Seconds, or a date; nothing that cannot be read."""
    text = (retry_after or "").strip()
    if re.fullmatch("[0-9]+", text):
        wait_ms = int(text[:9]) * 1_000
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return 0
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        wait_ms = round((date - now).total_seconds() * 1_000)
    return min(max(wait_ms, 0), LONGEST_WAIT_MS)
