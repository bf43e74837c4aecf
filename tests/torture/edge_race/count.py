"""What became of the messages of one run, counted alike for all contestants."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as its writer saw it."""

    conversation: str
    message: str
    begun_s: float
    ended_s: float
    acknowledged: bool
    sequence: int
    new: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """A batch as it came out."""

    at_s: float
    conversation: str
    messages: Sequence[str]


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages."""

    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.acknowledged + other.acknowledged,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.disordered + other.disordered,
        )


def count(sent: Iterable[Sent], delivered: Iterable[Delivered]) -> Counts:
    """Count what was acknowledged, and what of it went wrong.

    Lost: in no delivery. Doubled: in more than one. Out of order: it came after a message that was
    sent only when this one had been acknowledged.
    """
    known = {one.message: one for one in sent}
    times: dict[str, int] = defaultdict(int)
    newest: dict[str, float] = defaultdict(float)
    disordered = 0
    for batch in sorted(delivered, key=lambda batch: batch.at_s):
        for message in batch.messages:
            times[message] += 1
            one = known[message]
            first = times[message] == 1
            disordered += first and newest[batch.conversation] > one.ended_s
            newest[batch.conversation] = max(newest[batch.conversation], one.begun_s)
    acknowledged = [one.message for one in known.values() if one.acknowledged]
    return Counts(
        acknowledged=len(acknowledged),
        lost=sum(message not in times for message in acknowledged),
        doubled=sum(number > 1 for number in times.values()),
        disordered=disordered,
    )
