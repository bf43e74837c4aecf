"""The values of the model. All are tuples: a state is its own key."""

from typing import NamedTuple

COMPLETED, DEAD, REBUFFERED = "COMPLETED", "DEAD_LETTERED", "REBUFFERED"
DELIVERING, RETRY, LOST = "DELIVERING", "RETRY_SCHEDULED", "LEASE_LOST"


class Verdict(NamedTuple):
    """How a token settles a batch: "ack", "current" (ack only if current), or a nack's action."""

    token: int
    action: str


class Head(NamedTuple):
    """The sealed batch in front of a row. Token 0: none is good."""

    batch: int
    size: int
    token: int = 0
    nacks: int = 0
    expiries: int = 0
    ended: Verdict | None = None


class Past(NamedTuple):
    """A batch in a final state."""

    batch: int
    outcome: str
    messages: tuple[int, ...]
    verdict: Verdict


class Chat(NamedTuple):
    """What the store has of a conversation. `ids` are those it remembers, in order of arrival."""

    row: tuple[int, ...] = ()
    head: Head | None = None
    due: bool = False
    lease: bool = False
    ids: tuple[int, ...] = ()
    past: tuple[Past, ...] = ()

    @property
    def sealed(self) -> tuple[int, ...]:
        return self.row[: self.head.size] if self.head else ()

    @property
    def open(self) -> tuple[int, ...]:
        return self.row[self.head.size :] if self.head else self.row

    def outcome(self, batch: int) -> str | None:
        """How a batch ended, if it has."""
        return next((past.outcome for past in self.past if past.batch == batch), None)


Store = tuple[Chat, ...]

NEW, ASKED, UNSURE, ACKED = "new", "asked", "unsure", "acked"
"""A message that is not sent; whose answer is under way; was lost; has come."""

IDLE, CLAIMING, RECLAIMS, HOLDS, SETTLING, RESETTLES = range(6)
"""A worker: its claim's answer is under way; was lost; has come; the same of its verdict."""


class Worker(NamedTuple):
    """A subscriber with room for one batch. `done`: the store has carried out what it asked."""

    phase: int = IDLE
    chat: int = -1
    token: int = 0
    batch: int = 0
    messages: tuple[int, ...] = ()
    action: str = ""
    done: bool = False


class State(NamedTuple):
    """Everything. The last store of the log is the primary's, the first is surely the replica's.

    `handed` has, for each conversation, the batches in the order in which they first came to a
    worker. `old` is the store of a primary that was given up. `broken` says which rule a step
    broke.
    """

    log: tuple[Store, ...]
    messages: tuple[str, ...]
    workers: tuple[Worker, ...]
    handed: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    troubles: int
    old: Store | None = None
    broken: str = ""

    @property
    def store(self) -> Store:
        return self.log[-1]


class Step(NamedTuple):
    """One step. `who` is a message or a token; `detail` says more where that is needed."""

    name: str
    chat: int = -1
    who: int = 0
    detail: str = ""
