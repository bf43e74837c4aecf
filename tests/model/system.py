"""Everything that can happen: calls, answers, and what goes wrong between them."""

from collections.abc import Iterator
from typing import TypeVar

from tests.model.rules import Rules
from tests.model.state import (
    ACKED,
    ASKED,
    CLAIMING,
    HOLDS,
    IDLE,
    NEW,
    RECLAIMS,
    RESETTLES,
    SETTLING,
    UNSURE,
    Chat,
    State,
    Step,
    Store,
    Verdict,
    Worker,
)

ACTIONS = ("RETRY", "REBUFFER", "RELEASE")
LAG = 3
"""Stores that a replica may be behind where no answer waits for it."""

T = TypeVar("T")
Steps = Iterator[tuple[Step, State]]


class System:
    """Producers, workers and servers around the store.

    `chats` says how many messages each conversation gets. Lost answers, crashes, failovers, nacks,
    superseded batches and leases that end before their worker does are troubles, `troubles` at
    most. A failover needs `failover`.
    """

    def __init__(self, rules: Rules, *, chats: tuple[int, ...], troubles: int, failover: bool):
        self.rules = rules
        self.chats = chats
        self.troubles = troubles
        self.failover = failover
        self.chat_of = tuple(chat for chat, count in enumerate(chats) for _ in range(count))

    def start(self) -> State:
        nothing = tuple(() for _ in self.chats)
        store = tuple(Chat() for _ in self.chats)
        waiting = tuple(NEW for _ in self.chat_of)
        return State((store,), waiting, (Worker(),) * 2, nothing, self.troubles)

    def steps(self, state: State) -> Steps:
        """Every step from a state that matters, with the state that it leads to.

        Once nothing can go wrong any more, an answer under way just comes: when does not matter.
        """
        steps = self._all(state)
        if state.troubles:
            yield from steps
            return
        found = list(steps)
        yield from [step for step in found if step[0].name == "answer"][:1] or found

    def _all(self, state: State) -> Steps:
        for message, phase in enumerate(state.messages):
            yield from self._produce(state, message, phase)
        for place, worker in enumerate(state.workers):
            if place and worker == state.workers[place - 1]:
                continue  # The two are alike.
            if worker.phase in (IDLE, RECLAIMS):
                yield from self._claim(state, place, worker)
            elif worker.phase in (HOLDS, RESETTLES):
                yield from self._settle(state, place, worker)
            else:
                yield from self._hear(state, place, worker)
            if worker.phase == HOLDS and state.troubles:
                gone = self._worker(state, place, Worker())
                yield Step("crash of worker", worker.chat, worker.token), self._trouble(gone)
        for number, chat in enumerate(state.store):
            yield from self._expire(state, number, chat)
        if state.troubles:
            yield from self._crash(state)
        if self.rules.old_primary_returns and state.old:
            yield Step("return of old primary"), self._forget(state, state.old)._replace(old=None)

    def _produce(self, state: State, message: int, phase: str) -> Steps:
        number = self.chat_of[message]
        if phase == ASKED:
            yield (
                Step("answer", number, message, "add"),
                self._message(self._confirmed(state), message, ACKED),
            )
            if state.troubles:
                yield (
                    Step("lost answer", number, message, "add"),
                    self._message(self._trouble(state), message, UNSURE),
                )
        elif phase == UNSURE or (phase == NEW and self._is_next(state, message)):
            chat = self.rules.add(state.store[number], message)
            yield (
                Step("add", number, message),
                self._message(self._write(state, number, chat), message, ASKED),
            )

    def _is_next(self, state: State, message: int) -> bool:
        """Messages of a conversation are alike, and so are conversations: one order is enough."""
        return not message or state.messages[message - 1] != NEW

    def _claim(self, state: State, place: int, worker: Worker) -> Steps:
        if worker.phase == RECLAIMS:
            yield self._claimed(state, place, worker.chat, worker.token, worker)
            return
        for number, chat in enumerate(state.store):
            if chat.due:
                yield self._claimed(state, place, number, _unused(state, number), worker)

    def _claimed(
        self, state: State, place: int, number: int, token: int, before: Worker
    ) -> tuple[Step, State]:
        step = Step("claim", number, token)
        held = state.store[number]
        chat = self.rules.claim(held, token, _fresh(state, number))
        if chat is None or chat.head is None:
            return step, self._worker(state, place, Worker())
        batch = chat.head.batch
        after = self._write(state, number, chat)
        if held.lease and held.head and held.head.token == token and held.head.batch != batch:
            after = after._replace(broken="I6: the same claim formed another batch")
        worker = Worker(CLAIMING, number, token, batch, chat.sealed, done=True)
        return step, self._worker(after, place, worker)

    def _settle(self, state: State, place: int, worker: Worker) -> Steps:
        for action in (worker.action,) if worker.action else ("ack", "current", *ACTIONS):
            verdict = Verdict(worker.token, action)
            before = state.store[worker.chat]
            script = self.rules.nack if action in ACTIONS else self.rules.ack
            chat, answer = script(before, worker.batch, verdict)
            costs = worker.phase == HOLDS and (action in ACTIONS or answer == "REBUFFERED")
            if costs and not state.troubles:
                continue
            after = self._write(state, worker.chat, chat)
            if chat != before:
                after = after._replace(broken=_wrong(before, worker))
            after = self._worker(
                after, place, worker._replace(phase=SETTLING, action=action, done=True)
            )
            name = "nack" if action in ACTIONS else "ack"
            step = Step(name, worker.chat, worker.token, f"{action}, batch {worker.batch}")
            yield step, self._trouble(after) if costs else after

    def _hear(self, state: State, place: int, worker: Worker) -> Steps:
        """The answer to a worker's claim or verdict comes, or is lost."""
        what = "claim" if worker.phase == CLAIMING else "verdict"
        step = Step("answer", worker.chat, worker.token, what)
        if worker.phase == CLAIMING:
            sure = state if self.rules.unconfirmed_claims else self._confirmed(state)
            after = self._worker(sure, place, worker._replace(phase=HOLDS, done=False))
            yield step, _hand(after, worker)
        else:
            yield step, self._worker(self._confirmed(state), place, Worker())
        if state.troubles:
            unsure = _unsure(worker)
            yield (
                step._replace(name="lost answer"),
                self._trouble(self._worker(state, place, unsure)),
            )

    def _expire(self, state: State, number: int, chat: Chat) -> Steps:
        if not chat.lease or chat.head is None:
            return
        alive = any(
            worker.phase != IDLE and (worker.chat, worker.token) == (number, chat.head.token)
            for worker in state.workers
        )
        if alive and not state.troubles:
            return
        after = self._write(state, number, self.rules.expire(chat))
        yield Step("expire", number, chat.head.token), self._trouble(after) if alive else after

    def _crash(self, state: State) -> Steps:
        if any(phase == ASKED for phase in state.messages) or any(
            worker.phase in (CLAIMING, RECLAIMS, SETTLING) for worker in state.workers
        ):
            yield (
                Step("crash of server"),
                self._trouble(
                    state._replace(
                        messages=tuple(UNSURE if m == ASKED else m for m in state.messages),
                        workers=tuple(sorted(_cut_off(worker) for worker in state.workers)),
                    )
                ),
            )
        if self.failover:
            for place, store in enumerate(state.log):
                behind = len(state.log) - 1 - place
                after = self._trouble(self._forget(state, store))
                if self.rules.old_primary_returns:
                    after = after._replace(old=state.store)
                yield Step("failover", detail=f"{behind} writes behind" if behind else ""), after

    def _forget(self, state: State, store: Store) -> State:
        """Go on with another store. The answers of the one before do not come any more."""
        return state._replace(
            log=(store,),
            messages=tuple(UNSURE if m == ASKED else m for m in state.messages),
            workers=tuple(sorted(_unsure(w)._replace(done=False) for w in state.workers)),
        )

    def _write(self, state: State, number: int, chat: Chat) -> State:
        if chat == state.store[number]:
            return state
        log = (*state.log, _put(state.store, number, chat))
        if not (self.failover and state.troubles):
            log = log[-1:]
        return state._replace(log=log if self.rules.replicated else log[-LAG:])

    def _confirmed(self, state: State) -> State:
        """The state in which an answer may go out: with WAIT, the replica has all of it."""
        return state._replace(log=state.log[-1:]) if self.rules.replicated else state

    def _trouble(self, state: State) -> State:
        left = state.troubles - 1
        return state._replace(troubles=left, log=state.log if left else state.log[-1:])

    def _message(self, state: State, message: int, phase: str) -> State:
        return state._replace(messages=_put(state.messages, message, phase))

    def _worker(self, state: State, place: int, worker: Worker) -> State:
        after = state._replace(workers=tuple(sorted(_put(state.workers, place, worker))))
        return after if worker.phase else _tidied(after)


def _hand(state: State, worker: Worker) -> State:
    """Note what a worker was given, if the lease was still its own."""
    chat, handed = state.store[worker.chat], state.handed[worker.chat]
    delivery = worker.batch, worker.messages
    if delivery in handed or not chat.head or chat.head.token != worker.token:
        return state
    return state._replace(handed=_put(state.handed, worker.chat, (*handed, delivery)))


def _wrong(before: Chat, worker: Worker) -> str:
    """Why a verdict should not have changed the conversation; empty if it was right."""
    if worker.done:
        return "I6: the same verdict changed something again"
    if before.head is None or (before.head.batch, before.head.token) != (
        worker.batch,
        worker.token,
    ):
        return "I5: a token that is not the newest changed something"
    return ""


def _unsure(worker: Worker) -> Worker:
    """A worker's server, after the answer that was under way is lost: it asks again."""
    if worker.phase == CLAIMING:
        return worker._replace(phase=RECLAIMS, messages=())
    return worker._replace(phase=RESETTLES) if worker.phase == SETTLING else worker


def _cut_off(worker: Worker) -> Worker:
    """A worker whose server has died, and its nonce with it."""
    return Worker() if worker.phase in (CLAIMING, RECLAIMS) else _unsure(worker)


def _tidied(state: State) -> State:
    """The state without verdicts that nobody can repeat any more."""
    known = {(worker.chat, worker.batch, worker.token) for worker in state.workers}
    log = tuple(
        tuple(_without(chat, number, known) for number, chat in enumerate(store))
        for store in state.log
    )
    return state if log == state.log else state._replace(log=log)


def _without(chat: Chat, number: int, known: set[tuple[int, int, int]]) -> Chat:
    head = chat.head
    if head and head.ended and (number, head.batch, head.ended.token) not in known:
        chat = chat._replace(head=head._replace(ended=None))
    if all((number, p.batch, p.verdict.token) in known for p in chat.past if p.verdict.token):
        return chat
    past = tuple(
        p if (number, p.batch, p.verdict.token) in known else p._replace(verdict=Verdict(0, ""))
        for p in chat.past
    )
    return chat._replace(past=past)


def _unused(state: State, number: int) -> int:
    """A token that nobody and nothing knows."""
    used = {worker.token for worker in state.workers if worker.chat == number}
    for store in (*state.log, state.old) if state.old else state.log:
        chat = store[number]
        used |= {past.verdict.token for past in chat.past}
        if chat.head:
            used |= {chat.head.token, chat.head.ended.token if chat.head.ended else 0}
    return min({*range(1, len(used) + 2)} - used)


def _fresh(state: State, number: int) -> int:
    """An id that no batch has had, also not one that a failover has lost."""
    ids = [worker.batch for worker in state.workers if worker.chat == number]
    ids += [batch for batch, _ in state.handed[number]]
    for store in (*state.log, state.old) if state.old else state.log:
        chat = store[number]
        ids += [past.batch for past in chat.past]
        if chat.head:
            ids.append(chat.head.batch)
    return max(ids, default=0) + 1


def _put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])
