"""The race of all contestants: the same load for each, in turns, on one store."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from redis import Redis

from tests.end_to_end.traffic import Reader
from tests.support.audit import contradictions
from tests.support.history import Accepted, Add, Delivery, History, Phase, Tally, tally
from tests.support.servers import Server
from tests.support.stores import StoreProcess, eventually
from tests.torture.edge_race.contestant import WINDOW_S
from tests.torture.edge_race.count import Counts, Delivered, Sent, count
from tests.torture.edge_race.run import WINDOW_MESSAGES, Seen, Writers, order_of
from tests.torture.edge_race.tidegate import INSTANCE, MOST
from tests.torture.edge_race.writer import CONTESTANTS, Order
from tests.torture.score import Dose
from tidegate import Client
from tidegate_server.store.keys import Keys

ROUND = 20_000
"""Messages of one run; the memory of a long race is that of one run."""
MOST_OF_OTHERS = 100_000
"""Messages that a stand-in gets in the longest race: enough to see what it does."""


@dataclass(slots=True)
class Row:
    """What became of the messages that one contestant was given."""

    contestant: str
    ends: bool
    """Whether the writers' processes ended now and then."""
    counts: Counts = field(default_factory=Counts)
    contradictions: list[str] = field(default_factory=list[str])
    messages: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    """The answer to one add in a hundred took longer, in the worst run."""

    def take(self, seen: Seen, tallied: Tally | None) -> None:
        """Add what one run gave."""
        self.counts += count(seen.sent, seen.delivered)
        if tallied:
            self.contradictions += [*tallied.lost, *tallied.doubled]
            self.contradictions += [*tallied.disordered, *tallied.other]
        self.messages += len(seen.sent)
        self.seconds += seen.seconds
        answers = sorted(one.ended_s - one.begun_s for one in seen.sent)
        self.slowest_ms = max(self.slowest_ms, answers[len(answers) * 99 // 100] * 1000)


async def table(
    dose: Dose, *, others: int = MOST_OF_OTHERS, names: Sequence[str] = tuple(CONTESTANTS)
) -> list[Row]:
    """A row for each contestant and each kind of writers: those that stay, those that end.

    `dose.messages` are for Tidegate with writers that stay; all else gets at most `others`.
    """
    rows = [Row(name, ends) for ends in (False, True) for name in names]
    left = {id(row): min(dose.messages, others) for row in rows}
    left |= {id(r): dose.messages for r in rows if r.contestant == "Tidegate" and not r.ends}
    async with (
        StoreProcess() as store,
        Server(dose.directory, store_url=store.user_url) as server,
        Writers() as writers,
    ):
        race = _Race(dose, writers, store=store, server=server)
        for n in itertools.count():
            waiting = [row for row in rows if left[id(row)] > 0]
            for row in waiting:
                before = row.messages
                await race.run(row, f"{n}-{rows.index(row)}", min(ROUND, left[id(row)]))
                left[id(row)] -= max(row.messages - before, WINDOW_MESSAGES)
                _tell(dose, rows)
            if not waiting:
                break
        _audit(rows, store)
    return rows


def _tell(dose: Dose, rows: Sequence[Row]) -> None:
    done = sum(row.counts.acknowledged for row in rows if row.contestant == "Tidegate")
    dose.tell(done // WINDOW_MESSAGES, done)


class _Race:
    def __init__(self, dose: Dose, writers: Writers, *, store: StoreProcess, server: Server):
        self._dose = dose
        self._writers = writers
        self._store = store
        self._server = server

    async def run(self, row: Row, name: str, messages: int) -> None:
        """Give one contestant some messages, and add what became of them to its row."""
        ours = row.contestant == "Tidegate"
        order = order_of(
            row.contestant,
            self._server.target if ours else self._store.url,
            name,
            messages,
            ends=row.ends,
            seed=self._dose.seed,
            directory=self._dose.directory / name,
        )
        if ours:
            await self._run_ours(row, order)
        else:
            row.take(await self._writers.obey(order), None)

    async def _run_ours(self, row: Row, order: Order) -> None:
        """The same with a subscriber, and the checker's judgement."""
        history = History()
        async with (
            Client(self._server.target) as gate,
            Reader(gate, history, INSTANCE, max_in_flight=256),
        ):
            seen = await self._writers.obey(order)
            _add_to(history, seen.sent)
            with suppress(TimeoutError):
                await eventually(history.drained, within_s=30)
        row.take(dataclasses.replace(seen, delivered=_delivered(history)), tally(history))


def _add_to(history: History, sent: Sequence[Sent]) -> None:
    """Tell the checker what the writers saw."""
    for one in sent:
        add = Add((INSTANCE, one.conversation), one.message, one.message, WINDOW_S, MOST)
        operation = history.invoke(add, at_s=one.begun_s)
        phase = Phase.OK if one.acknowledged else Phase.FAIL
        accepted = Accepted(one.sequence, one.new) if one.acknowledged else None
        history.end(operation, phase, add, accepted, at_s=one.ended_s)


def _delivered(history: History) -> list[Delivered]:
    """The batches, each at its first delivery: a repeat of the same batch doubles nothing."""
    batches: dict[str, list[Delivered]] = defaultdict(list)
    for event in history.events:
        if isinstance(batch := event.what, Delivery):
            names = [message.message_id for message in batch.messages]
            batches[batch.batch_id].append(Delivered(event.at_s, batch.chat[1], names))
    return [deliveries[0] for deliveries in batches.values()]


def _audit(rows: Sequence[Row], store: StoreProcess) -> None:
    """What the store itself says, when all is delivered."""
    with Redis.from_url(store.url) as client:
        found = contradictions(client, Keys("tg"))
    for row in rows:
        if row.contestant == "Tidegate":
            row.contradictions += found
            return
