"""What contradicts the promise at the end of a simulated stretch of time."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.simulation.town import EPOCH_MS, SWEEP_S, Town
from tests.support.history import Delivery, Event, History, Phase, Settlement, violations
from tidegate_server.core.model import BatchInfo, BatchState, Conversation
from tidegate_server.core.retry import RetryPolicy

CALM_S = 2.5 * SWEEP_S
"""After a trouble, all is back to normal by then: clocks, lines, notices that were lost."""
PROMPT_MS = 250
"""A batch is formed that soon after it is due, in calm weather."""


def contradictions(town: Town) -> list[str]:
    """One sentence for each."""
    found = [*town.complaints, *violations(_settled_history(town))]
    return [*found, *_misplaced(town), *_late(town), *_too_often(town)]


def _settled_history(town: Town) -> History:
    """The record without the batches that were put back on purpose, whose messages come again.

    Nobody saw how a dead letter ended, nor what was acked by a bot that died before the answer.
    """
    infos = {past.info.batch_id: past.info for past in town.world.settled.values()}
    history, acked = History(), set[str]()
    for event in town.history.events:
        what = event.what
        if isinstance(what, Delivery | Settlement):
            info = infos.get(what.batch_id)
            if info and info.state is BatchState.REBUFFERED:
                continue
        if isinstance(what, Settlement) and what.final and event.phase is Phase.INVOKE:
            acked.add(what.batch_id)
        history.events.append(event)
    for number, info in enumerate(infos.values(), 1):
        dead = info.state is BatchState.DEAD_LETTERED
        if dead or (info.state is BatchState.COMPLETED and info.batch_id in acked):
            at_s = ((info.settled_at_ms or 0) - EPOCH_MS) / 1_000
            end = Settlement(info.batch_id, info.attempt)
            history.events.append(Event(at_s, -number, Phase.INVOKE, end))
            history.events.append(Event(at_s, -number, Phase.OK, end))
    return history


def _misplaced(town: Town) -> Iterator[str]:
    """I1, I2: in the store, each acknowledged message is in one batch that has ended."""
    places = Counter(
        (past.info.conversation.instance, past.info.conversation.name, message.id)
        for past in town.world.settled.values()
        if past.info.state is not BatchState.REBUFFERED
        for message in past.messages
    )
    for chat in town.world.chats.values():
        places.update((chat.conversation.instance, chat.conversation.name, m.id) for m in chat.row)
    for (instance, name), message in sorted(town.history.owed):
        if not places[instance, name, message]:
            yield f"message {message} was acknowledged and is nowhere"
    yield from (f"message {p[2]} is in {n} places" for p, n in places.items() if n > 1)


def _late(town: Town) -> Iterator[str]:
    """I9: in calm weather a batch is formed as soon as it is due and none is before it."""
    settled = [past.info for past in town.world.settled.values()]
    chats: dict[Conversation, list[BatchInfo]] = {}
    for info in sorted(settled, key=lambda info: (info.sealed_at_ms, info.first_sequence)):
        chats.setdefault(info.conversation, []).append(info)
    for infos in chats.values():
        for before, info in pairwise([None, *infos]):
            assert info
            due_ms = max(info.due_at_ms, (before and before.settled_at_ms) or 0)
            late_ms = info.sealed_at_ms - due_ms
            if late_ms > PROMPT_MS and _calm(town, due_ms, info.sealed_at_ms):
                yield f"batch {info.batch_id} was formed {late_ms} ms late in calm weather"


def _calm(town: Town, from_ms: int, until_ms: int) -> bool:
    """Whether there was no trouble in that time, nor shortly before it."""
    from_s, until_s = ((ms - EPOCH_MS) / 1_000 for ms in (from_ms, until_ms))
    return not any(
        begun_s <= until_s and ended_s >= from_s - CALM_S for begun_s, ended_s in town.troubles
    )


def _too_often(town: Town) -> Iterator[str]:
    """I8: no batch is delivered more often than retries and expiries allow."""
    retry = RetryPolicy()
    for past in town.world.settled.values():
        if past.info.attempt > retry.max_attempts + retry.max_expiries:
            yield f"batch {past.info.batch_id} was delivered {past.info.attempt} times"
