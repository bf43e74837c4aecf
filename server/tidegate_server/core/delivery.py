"""The life of a batch, as a table: what may happen in which state, and what comes of it.

The diagrams in the documentation are drawn from this table, the reference store obeys it, and the
scripts of the store are tested against that one.
"""

from enum import StrEnum

from tidegate_server.core.model import BatchState, NackAction


class Event(StrEnum):
    """What can happen to a batch."""

    CLAIM = "claim"
    ACK = "ack"
    RETRY = "nack retry"
    RELEASE = "nack release"
    REBUFFER = "nack rebuffer, or superseded"
    GIVE_UP = "nack dead letter, or the last retry or expiry is used up"
    EXPIRE = "lease expiry"


DELIVERING, RETRY_SCHEDULED = BatchState.DELIVERING, BatchState.RETRY_SCHEDULED

TRANSITIONS: dict[tuple[BatchState | None, Event], BatchState] = {
    (None, Event.CLAIM): DELIVERING,
    (RETRY_SCHEDULED, Event.CLAIM): DELIVERING,
    (DELIVERING, Event.ACK): BatchState.COMPLETED,
    (DELIVERING, Event.RETRY): RETRY_SCHEDULED,
    (DELIVERING, Event.RELEASE): RETRY_SCHEDULED,
    (DELIVERING, Event.REBUFFER): BatchState.REBUFFERED,
    (DELIVERING, Event.GIVE_UP): BatchState.DEAD_LETTERED,
    (DELIVERING, Event.EXPIRE): RETRY_SCHEDULED,
    # A lease that has run out still settles the batch while nobody has claimed it since.
    (RETRY_SCHEDULED, Event.ACK): BatchState.COMPLETED,
    (RETRY_SCHEDULED, Event.RETRY): RETRY_SCHEDULED,
    (RETRY_SCHEDULED, Event.RELEASE): RETRY_SCHEDULED,
    (RETRY_SCHEDULED, Event.REBUFFER): BatchState.REBUFFERED,
    (RETRY_SCHEDULED, Event.GIVE_UP): BatchState.DEAD_LETTERED,
}

FINAL = frozenset(
    {
        BatchState.COMPLETED,
        BatchState.DEAD_LETTERED,
        BatchState.REBUFFERED,
        BatchState.DISCARDED,
    }
)

NACK_EVENTS = {
    NackAction.RETRY: Event.RETRY,
    NackAction.RELEASE: Event.RELEASE,
    NackAction.REBUFFER: Event.REBUFFER,
    NackAction.DEAD_LETTER: Event.GIVE_UP,
}


def after(state: BatchState | None, event: Event) -> BatchState:
    """The state that `event` leads to from `state` (None: not formed yet).

    Raises `ValueError` for a step that the table does not have.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        name = "a buffer" if state is None else state.name
        raise ValueError(f"{event.name} is no step from {name}") from None
