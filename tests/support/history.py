"""What producers and subscribers saw, as it happened, and what of it contradicts the promise.

Every operation is invoked and ends in one of three ways: OK, FAIL (it had no effect) or UNKNOWN (it
may have had one). Nothing here asks the server: the clients' own eyes are the evidence.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

Chat = tuple[str, str]
"""Instance and conversation."""

_CLOCKS_DIFFER_S = 0.002
"""The store counts whole milliseconds, of a clock that is set while ours is not."""
_ROUNDING_S = 0.001
"""A policy's delay is rounded to whole milliseconds."""


class Phase(Enum):
    INVOKE = auto()
    OK = auto()
    FAIL = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Add:
    """A message on its way in. Its window, if it opens one, lasts `delay_s` and takes `most`."""

    chat: Chat
    message_id: str
    payload: str | bytes
    delay_s: float
    most: int = 100
    flush: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an add: the place of the message, and whether this call brought it."""

    sequence: int
    new: bool = True


@dataclass(frozen=True, slots=True)
class Flush:
    chat: Chat


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came out. `taken_s` is the store's time."""

    message_id: str
    sequence: int
    payload: str | bytes
    taken_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch that a subscriber got. `closed_by` is "DELAY", "REQUESTED" and so on.

    `formed_s` and `until_s`, the end of its lease, are the store's time.
    """

    chat: Chat
    batch_id: str
    attempt: int
    messages: tuple[Received, ...]
    closed_by: str = "DELAY"
    formed_s: float = float("inf")
    until_s: float = float("inf")
    lease_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a subscriber did with a delivery. A `final` one ends the batch.

    One that `rebuffers` ends it, too, but its messages come again in another batch.
    """

    batch_id: str
    attempt: int
    final: bool = True
    rebuffers: bool = False


What = Add | Flush | Delivery | Settlement


@dataclass(frozen=True, slots=True)
class Event:
    at_s: float
    operation: int
    phase: Phase
    what: What
    accepted: Accepted | None = None


class History:
    """An append-only record. Times are those of the monotonic clock unless they are given.

    Where `clocks_jump`, nobody can say what comes early.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.owed: set[tuple[Chat, str]] = set()
        self.clocks_jump = False
        self._operations = itertools.count()
        self._contents: dict[str, set[tuple[Chat, str]]] = defaultdict(set)
        self._done: set[tuple[Chat, str]] = set()

    def invoke(self, what: What, *, at_s: float | None = None) -> int:
        """An operation begins; its number, for `end`."""
        operation = next(self._operations)
        self._append(operation, Phase.INVOKE, what, None, at_s)
        return operation

    def end(
        self,
        operation: int,
        phase: Phase,
        what: What,
        accepted: Accepted | None = None,
        *,
        at_s: float | None = None,
    ) -> None:
        """How the operation ended, as far as its caller knows."""
        self._append(operation, phase, what, accepted, at_s)
        if phase is not Phase.OK:
            return
        if isinstance(what, Add):
            self.owed |= {(what.chat, what.message_id)} - self._done
        elif isinstance(what, Settlement) and what.final and not what.rebuffers:
            self._done |= self._contents[what.batch_id]
            self.owed -= self._done

    def deliver(self, delivery: Delivery, *, at_s: float | None = None) -> None:
        """A subscriber got a batch."""
        self._append(next(self._operations), Phase.OK, delivery, None, at_s)
        self._contents[delivery.batch_id] |= {
            (delivery.chat, message.message_id) for message in delivery.messages
        }

    def drained(self) -> bool:
        """Whether every acknowledged message is in a batch that is settled for good."""
        return not self.owed

    def _append(
        self,
        operation: int,
        phase: Phase,
        what: What,
        accepted: Accepted | None,
        at_s: float | None,
    ) -> None:
        at_s = time.monotonic() if at_s is None else at_s
        self.events.append(Event(at_s, operation, phase, what, accepted))


@dataclass(slots=True)
class _Operation:
    """An add or a settlement from beginning to end. One without an end is unknown."""

    begun_s: float
    phase: Phase = Phase.UNKNOWN
    ended_s: float = float("inf")
    accepted: Accepted | None = None


class _View:
    """The record by message and by batch."""

    def __init__(self, history: History):
        self.adds: dict[tuple[Chat, str], list[tuple[Add, _Operation]]] = defaultdict(list)
        self.flushes: dict[Chat, list[float]] = defaultdict(list)
        self.deliveries: dict[str, list[tuple[float, Delivery]]] = defaultdict(list)
        self.settlements: dict[str, list[tuple[Settlement, _Operation]]] = defaultdict(list)
        self.batches: dict[Chat, list[str]] = defaultdict(list)
        self.placed: dict[tuple[Chat, str], set[str]] = defaultdict(set)
        self.places: dict[tuple[Chat, str], set[int]] = defaultdict(set)
        self._running: dict[int, _Operation] = {}
        for event in history.events:
            self._take(event)

    def rebuffered(self, batch_id: str, *, surely: bool = False) -> bool:
        """Whether the batch's messages may come, or must come, in another one."""
        return any(
            settlement.rebuffers
            and operation.phase is not Phase.FAIL
            and (operation.phase is Phase.OK or not surely)
            for settlement, operation in self.settlements[batch_id]
        )

    def _take(self, event: Event) -> None:
        what = event.what
        if isinstance(what, Delivery):
            if what.batch_id not in self.deliveries:
                self.batches[what.chat].append(what.batch_id)
            self.deliveries[what.batch_id].append((event.at_s, what))
            for message in what.messages:
                self.placed[what.chat, message.message_id].add(what.batch_id)
                self.places[what.chat, message.message_id].add(message.sequence)
        elif event.phase is Phase.INVOKE:
            self._begin(what, event)
        elif operation := self._running.get(event.operation):
            operation.phase, operation.ended_s = event.phase, event.at_s
            operation.accepted = event.accepted

    def _begin(self, what: Add | Flush | Settlement, event: Event) -> None:
        operation = self._running[event.operation] = _Operation(event.at_s)
        match what:
            case Add():
                self.adds[what.chat, what.message_id].append((what, operation))
            case Flush():
                self.flushes[what.chat].append(event.at_s)
            case Settlement():
                self.settlements[what.batch_id].append((what, operation))


def violations(history: History, *, drained: bool = True) -> list[str]:
    """One sentence for each contradiction. Not `drained`: messages may still be under way."""
    view = _View(history)
    found = [*_twice(view), *_changed(view), *_unordered(view), *_overlapping(view)]
    found += [*_invented(view), *_taken_twice(view), *_out_of_turn(view), *_too_soon(history, view)]
    return found + list(_lost(view)) if drained else found


@dataclass(frozen=True, slots=True)
class Tally:
    """The contradictions of a history by kind, and how many messages were acknowledged."""

    acknowledged: int
    lost: list[str]
    doubled: list[str]
    disordered: list[str]
    other: list[str]


def tally(history: History) -> Tally:
    """Count what `violations` lists, of a history that is drained."""
    view = _View(history)
    acknowledged = sum(
        any(operation.phase is Phase.OK for _, operation in adds) for adds in view.adds.values()
    )
    return Tally(
        acknowledged,
        lost=[*_lost(view)],
        doubled=[*_twice(view), *_taken_twice(view)],
        disordered=[*_unordered(view), *_overlapping(view), *_out_of_turn(view)],
        other=[*_changed(view), *_invented(view), *_too_soon(history, view)],
    )


def _lost(view: _View) -> Iterator[str]:
    """I1: an acknowledged message is delivered and settled."""
    for (chat, name), adds in view.adds.items():
        acknowledged = any(operation.phase is Phase.OK for _, operation in adds)
        placed = view.placed.get((chat, name), set())
        if acknowledged and all(view.rebuffered(batch, surely=True) for batch in placed):
            yield f"message {name} was acknowledged and never delivered" + (
                " again" if placed else ""
            )
    for batch_id in view.deliveries:
        settlements = view.settlements[batch_id]
        if not any(s.final and _may_be_over(s, operation) for s, operation in settlements):
            yield f"batch {batch_id} was delivered and never settled"


def _may_be_over(settlement: Settlement, operation: _Operation) -> bool:
    """Whether the batch is settled. What was put back is proved by the batch that comes of it."""
    unknown = settlement.rebuffers and operation.phase is Phase.UNKNOWN
    return unknown or operation.phase is Phase.OK


def _twice(view: _View) -> Iterator[str]:
    """I2: a message is in one batch."""
    for (_, name), batches in view.placed.items():
        if sum(not view.rebuffered(batch_id) for batch_id in batches) > 1:
            yield f"message {name} was delivered in the batches {sorted(batches)}"


def _changed(view: _View) -> Iterator[str]:
    """I3: every delivery of a batch has the same messages."""
    for batch_id, deliveries in view.deliveries.items():
        if any(delivery.messages != deliveries[0][1].messages for _, delivery in deliveries):
            yield f"batch {batch_id} changed between deliveries"


def _unordered(view: _View) -> Iterator[str]:
    """I4: sequences grow, within a batch and from one to the next."""
    for chat, batches in view.batches.items():
        newest = 0
        for batch_id in batches:
            before = newest
            for message in view.deliveries[batch_id][0][1].messages:
                if message.sequence <= newest:
                    yield f"message {message.message_id} of {chat[0]} came out of order"
                newest = max(newest, message.sequence)
            if view.rebuffered(batch_id):
                newest = before


def _overlapping(view: _View) -> Iterator[str]:
    """I4: a batch begins after the one before is settled, and ends with its settlement."""
    for batches in view.batches.values():
        for before, after in itertools.pairwise(batches):
            begun_s = view.deliveries[after][0][0]
            if not any(
                settlement.final and operation.phase is not Phase.FAIL
                for settlement, operation in view.settlements[before]
                if operation.begun_s <= begun_s
            ):
                yield f"batch {after} was delivered while {before} was not settled"
    for batch_id, settlements in view.settlements.items():
        for settlement, operation in settlements:
            if settlement.final and operation.phase is Phase.OK:
                newest = max(d.attempt for _, d in view.deliveries[batch_id])
                if newest > settlement.attempt:
                    yield f"batch {batch_id} was delivered again after it was settled"


def _invented(view: _View) -> Iterator[str]:
    """I7, I13: what is delivered was sent, is unchanged, and was not refused."""
    for batch_id, deliveries in view.deliveries.items():
        for _, delivery in deliveries:
            if not delivery.messages:
                yield f"batch {batch_id} was delivered without messages"
            for message in delivery.messages:
                name = message.message_id
                adds = view.adds.get((delivery.chat, name), [])
                if not adds:
                    yield f"message {name} was delivered and never sent"
                elif all(operation.phase is Phase.FAIL for _, operation in adds):
                    yield f"message {name} was delivered and had been refused"
                elif all(add.payload != message.payload for add, _ in adds):
                    yield f"message {name} was delivered with another payload"


def _taken_twice(view: _View) -> Iterator[str]:
    """I15: an id is new once, and keeps its place."""
    for (chat, name), adds in view.adds.items():
        answers = [operation.accepted for _, operation in adds if operation.accepted]
        if sum(answer.new for answer in answers) > 1:
            yield f"message {name} was taken as new twice"
        places = {answer.sequence for answer in answers} | view.places.get((chat, name), set())
        if answers and len(places) > 1:
            yield f"message {name} has several places"


def _too_soon(history: History, view: _View) -> list[str]:
    return [] if history.clocks_jump else [*_early(view), *_hasty(view)]


def _early(view: _View) -> Iterator[str]:
    """I14: no batch comes before its window could have closed."""
    for chat, batches in view.batches.items():
        for batch_id in batches:
            at_s, delivery = view.deliveries[batch_id][0]
            known = [view.adds[chat, message.message_id] for message in delivery.messages]
            if known and all(known) and not _may_close(view, delivery, at_s, known):
                yield f"batch {batch_id} came before its window could close"


def _may_close(
    view: _View, delivery: Delivery, at_s: float, known: list[list[tuple[Add, _Operation]]]
) -> bool:
    adds = [add for message in known for add, _ in message]
    match delivery.closed_by:
        case "REQUESTED":
            asked = any(flushed_s <= at_s for flushed_s in view.flushes[delivery.chat])
            return asked or any(add.flush for add in adds)
        case "MAX_MESSAGES":
            return len(known) == known[0][0][0].most
        case "MAX_BYTES":
            return True
        case _:
            opened_s = min(operation.begun_s for _, operation in known[0])
            delay_s = known[0][0][0].delay_s
            by_the_store_s = delivery.formed_s - delivery.messages[0].taken_s
            return at_s >= opened_s + delay_s - _CLOCKS_DIFFER_S and (
                by_the_store_s >= delay_s - _ROUNDING_S
            )


def _hasty(view: _View) -> Iterator[str]:
    """A batch comes again as a further attempt only when its lease is over, or it was given back.

    Both clocks must say that it was not over: one of them may have been set.
    """
    for batch_id, deliveries in view.deliveries.items():
        for (begun_s, first), (again_s, second) in itertools.pairwise(deliveries):
            given_back = any(
                settlement.attempt == first.attempt
                # One that fails later may have been done, and repeated by the client in vain.
                and (operation.phase is not Phase.FAIL or operation.ended_s > again_s)
                for settlement, operation in view.settlements[batch_id]
            )
            runs = second.until_s - second.lease_s < first.until_s - _CLOCKS_DIFFER_S
            soon = again_s < begun_s + first.lease_s / 2
            if second.attempt > first.attempt and not given_back and runs and soon:
                yield f"batch {batch_id} was delivered again before its lease was over"


def _out_of_turn(view: _View) -> Iterator[str]:
    """A message that was acknowledged before another one was sent has the earlier place."""
    chats: dict[Chat, list[tuple[str, _Operation, int]]] = defaultdict(list)
    for (chat, name), adds in view.adds.items():
        for _, operation in adds:
            if operation.accepted and operation.accepted.new:
                chats[chat].append((name, operation, operation.accepted.sequence))
    for taken in chats.values():
        ended = sorted(taken, key=lambda entry: entry[1].ended_s)
        newest, place = 0, 0
        for name, operation, sequence in sorted(taken, key=lambda entry: entry[1].begun_s):
            while ended[place][1].ended_s < operation.begun_s:
                newest = max(newest, ended[place][2])
                place += 1
            if sequence <= newest:
                yield f"message {name} has a place before one that was there already"
