"""What is lost at a level that does not promise more: measured, and the rest must be sound."""

import random
from collections.abc import Awaitable, Callable, Iterator

from tests.end_to_end.traffic import Load, Reader, flush, window
from tests.support.history import Add, History, Phase, tally
from tests.support.servers import Server
from tests.support.stores import eventually
from tests.torture.score import Dose, Score
from tidegate import Client

_KEPT = window(600)
"""Nothing is delivered before the faults are over, so what is lost is lost messages."""

Fault = Callable[[Load, random.Random], Awaitable[float]]
"""Returns when it struck, by the monotonic clock."""


async def losses(dose: Dose, server: Server, fault: Fault) -> Score:
    """Add, hurt, add, hurt; then see what comes out."""
    chance, history = random.Random(dose.seed), History()
    struck_s: list[float] = []
    async with Client(server.target) as gate:
        async with Load([gate], history, "bot", producers=2, policy=_KEPT) as load:
            for _ in range(dose.faults):
                await load.more(dose.between)
                struck_s.append(await fault(load, chance))
                dose.tell(len(struck_s), load.sent)
            await load.more(1)
        async with Reader(gate, history, "bot"):
            await eventually(lambda: _let_go(gate, history), within_s=30)
    return _score(history, struck_s)


async def _let_go(gate: Client, history: History) -> bool:
    """Close all windows; whether nothing is left."""
    async for conversation in gate.conversations("bot"):
        await flush(gate, history, ("bot", conversation.conversation))
    stats = await gate.stats()
    return stats.buffered_messages == stats.delivering_batches == stats.retrying_batches == 0


def _score(history: History, struck_s: list[float]) -> Score:
    """What is owed now is lost; the rest must be sound all the same."""
    rest = History()
    rest.events = [event for event in history.events if not _is_of(event.what, history)]
    sound = tally(rest)
    acknowledged = sound.acknowledged + len(history.owed)
    oldest_s = max(_ages_s(history, struck_s), default=0.0)
    return Score(
        faults=len(struck_s),
        acknowledged=acknowledged,
        lost=len(history.owed),
        doubled=len(sound.doubled),
        disordered=len(sound.disordered),
        contradictions=(*sound.lost, *sound.doubled, *sound.disordered, *sound.other),
        expected_loss=True,
        note=f"{len(history.owed) / acknowledged:.1%} lost, "
        f"the oldest acknowledged {oldest_s:.1f} s before its fault",
    )


def _is_of(what: object, history: History) -> bool:
    return isinstance(what, Add) and (what.chat, what.message_id) in history.owed


def _ages_s(history: History, struck_s: list[float]) -> Iterator[float]:
    """How long each lost message had been acknowledged when the fault struck."""
    for event in history.events:
        if event.phase is Phase.OK and _is_of(event.what, history):
            yield min((at_s - event.at_s for at_s in struck_s if at_s > event.at_s), default=0)
