"""`python -m tests.model`: search the model, or show how a mutant is found out."""

import argparse
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tests.model.bounds import LARGE, MUTANT, SHORT, Bound
from tests.model.mutants import MUTANTS
from tests.model.rules import Rules
from tests.model.search import Trace, search
from tests.model.state import ACKED, HOLDS, Chat, State, Step


def main() -> None:
    options = _options()
    console = Console(width=120)
    if options.mutant:
        sys.exit(_mutant(console, options.mutant))
    failures = [_search(console, bound) for bound in (LARGE if options.large else SHORT)]
    sys.exit(any(failures))


def _search(console: Console, bound: Bound) -> bool:
    begun = time.process_time()
    found = search(bound.system(Rules()))
    console.print(
        f"{bound}: {found.states:,} states, {found.steps:,} steps, depth {found.depth}, "
        f"{found.dead_ends} dead ends, {time.process_time() - begun:.1f} s"
    )
    if found.sentence:
        console.print(f"[red]{found.sentence}[/red]")
        console.print(_table(found.trace))
    return bool(found.sentence or found.dead_ends)


def _mutant(console: Console, name: str) -> bool:
    rules = MUTANTS[name]
    found = search(MUTANT.system(rules()))
    console.print(f"{name}: {rules.__doc__}\n{found.states:,} states seen, {MUTANT}")
    if not found.sentence:
        console.print("[red]It was not found out.[/red]")
        return True
    console.print(_table(found.trace))
    console.print(found.sentence)
    return False


def _table(trace: Trace) -> Table:
    table = Table("no.", "step", "row (sealed | open)", "lease", "acknowledged", "in hand")
    for number, (step, state) in enumerate(trace):
        table.add_row(str(number), _said(step), *_shown(state))
    return table


def _said(step: Step) -> str:
    match step.name:
        case "add":
            text = f"add m{step.who}"
        case "answer" | "lost answer":
            of = f"m{step.who}" if step.detail == "add" else f"token {step.who}"
            return f"{step.name} to {step.detail}, {of}"
        case "claim" | "ack" | "nack" | "expire" | "crash of worker":
            text = f"{step.name}, token {step.who}"
        case _:
            text = step.name
    return f"{text} ({step.detail})" if step.detail else text


def _shown(state: State) -> Iterable[str]:
    yield "\n".join(f"{_names(chat.sealed)} | {_names(chat.open)}" for chat in state.store)
    yield "\n".join(map(_lease, state.store))
    yield _names(m for m, phase in enumerate(state.messages) if phase == ACKED)
    yield "\n".join(
        f"batch {worker.batch}: {_names(worker.messages)} by token {worker.token}"
        for worker in state.workers
        if worker.phase >= HOLDS
    )


def _lease(chat: Chat) -> str:
    if not chat.head:
        return ""
    text = f"batch {chat.head.batch}"
    return f"{text}, token {chat.head.token}" if chat.lease else f"{text} waits"


def _names(messages: Iterable[int]) -> str:
    return " ".join(f"m{message}" for message in messages) or "-"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--mutant", choices=MUTANTS, help="show how this broken rule is found out")
    parser.add_argument("--large", action="store_true", help="search further: minutes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
