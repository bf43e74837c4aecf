"""Breadth-first search: all states, the shortest way to a contradiction, and what is a dead end."""

from collections import deque
from dataclasses import dataclass, field

from tests.model.invariants import contradiction
from tests.model.state import ACKED, IDLE, NEW, State, Step
from tests.model.system import System

Trace = list[tuple[Step, State]]


@dataclass(slots=True)
class Found:
    """What a search saw. `trace` leads to the contradiction that is closest to the start.

    `dead_ends` are states from which no quiet one can be reached.
    """

    states: int = 0
    steps: int = 0
    depth: int = 0
    sentence: str = ""
    trace: Trace = field(default_factory=list[tuple[Step, State]])
    dead_ends: int = 0


def search(system: System) -> Found:
    """Look at every state, until one contradicts an invariant."""
    start = system.start()
    numbers, states, came_from = {start: 0}, [start], [(-1, Step("start"))]
    depths, back = [0], list[list[int]]([[]])
    found, queue = Found(), deque([0])
    while queue:
        here = queue.popleft()
        for step, state in system.steps(states[here]):
            found.steps += 1
            number = numbers.get(state)
            if number is None:
                number = numbers[state] = len(states)
                states.append(state)
                came_from.append((here, step))
                depths.append(depths[here] + 1)
                back.append([])
                queue.append(number)
                if sentence := contradiction(state, system.chat_of):
                    found.sentence, found.trace = sentence, _trace(number, states, came_from)
                    queue.clear()
                    break
            back[number].append(here)
    found.states, found.depth = len(states), depths[-1]
    if not found.sentence:
        found.dead_ends = len(states) - _that_reach_quiet(states, back)
    return found


def quiet(state: State) -> bool:
    """Nothing is under way, and every message is acknowledged or was never sent, and settled."""
    return (
        all(phase in (ACKED, NEW) for phase in state.messages)
        and all(worker.phase == IDLE for worker in state.workers)
        and not any(chat.row for chat in state.store)
    )


def _that_reach_quiet(states: list[State], back: list[list[int]]) -> int:
    reached = [number for number, state in enumerate(states) if quiet(state)]
    known = set(reached)
    while reached:
        for before in back[reached.pop()]:
            if before not in known:
                known.add(before)
                reached.append(before)
    return len(known)


def _trace(number: int, states: list[State], came_from: list[tuple[int, Step]]) -> Trace:
    trace: Trace = []
    while number >= 0:
        number_before, step = came_from[number]
        trace.append((step, states[number]))
        number = number_before
    return trace[::-1]
