"""How long a batch waits after a nack, and when it is given up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries with exponential backoff: `base_ms`, then `factor` times as long, up to `cap_ms`."""

    retries: int = 3
    base_ms: int = 1_000
    factor: float = 2.0
    cap_ms: int = 60_000
    max_expiries: int = 10

    @property
    def max_attempts(self) -> int:
        """Deliveries after which, all of them nacked, a batch becomes a dead letter."""
        return self.retries + 1


def backoffs(policy: RetryPolicy, *, jitter: float = 0.0) -> tuple[int, ...]:
    """The wait in milliseconds after the 1st, 2nd, ... nack; one nack more is a dead letter.

    `jitter` from 0 to 1 adds up to a tenth, so that batches that failed together come apart.
    """
    stretch = 1 + jitter / 10
    waits = (min(policy.base_ms * policy.factor**n, policy.cap_ms) for n in range(policy.retries))
    return tuple(round(wait * stretch) for wait in waits)
