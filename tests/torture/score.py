"""What a line of the scorecard is: a fault, a dose of it, and what came out."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.history import History, Tally, tally


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of a fault. The same seed gives the same faults, as far as processes allow."""

    faults: int
    messages: int
    seed: int
    directory: Path
    """Empty, and the line's own."""

    @property
    def between(self) -> int:
        """Messages to acknowledge from one fault to the next, on average."""
        return max(1, self.messages // self.faults)

    def tell(self, faults: int, acknowledged: int) -> None:
        """Say how far it has come, to whoever looks at the file beside the directory."""
        self.directory.with_suffix(".progress").write_text(f"{faults} {acknowledged}")


@dataclass(frozen=True, slots=True)
class Score:
    """What came out. A `contradiction` is a sentence of the checker.

    `expected_loss`: the level does not promise more; then loss must be seen, or the line proves
    nothing.
    """

    faults: int
    acknowledged: int
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    contradictions: tuple[str, ...] = ()
    expected_loss: bool = False
    note: str = ""
    table: tuple[tuple[str, str], ...] = ()
    """Rows of a table of its own, for a line that has more to say."""
    section: str = ""
    """What more the page says of it: Markdown, with a title of the second level."""

    @property
    def holds(self) -> bool:
        """Whether the line shows what it is there to show."""
        if self.expected_loss:
            return self.lost > 0
        return not (self.lost or self.doubled or self.disordered or self.contradictions)


@dataclass(frozen=True, slots=True)
class Line:
    """A fault with its name on the scorecard, and its doses: a short one and the long one."""

    name: str
    run: Callable[[Dose], Awaitable[Score]]
    short: tuple[int, int]
    """Faults and messages within the tests: seconds."""
    long: tuple[int, int]
    """Faults and messages in the long run: minutes."""
    missing: Callable[[], str | None] = field(default=lambda: None)
    """Why it cannot run on this machine, in a sentence; None if it can."""
    in_tests: bool = True
    """Whether its short dose is short enough, and says enough, for all tests to wait for it."""
    expected: str = "nothing lost, in two batches or out of order"
    """What must come out, in the words of the scorecard."""


def add_up(tallies: Iterable[Tally], *, faults: int, note: str = "") -> Score:
    """The score of a line that ran in several rounds, each with a history of its own."""
    rounds = list(tallies)
    sentences = [
        sentence
        for one in rounds
        for sentence in (*one.lost, *one.doubled, *one.disordered, *one.other)
    ]
    return Score(
        faults=faults,
        acknowledged=sum(one.acknowledged for one in rounds),
        lost=sum(len(one.lost) for one in rounds),
        doubled=sum(len(one.doubled) for one in rounds),
        disordered=sum(len(one.disordered) for one in rounds),
        contradictions=tuple(sentences),
        note=note,
    )


async def in_rounds(
    dose: Dose, size: int, run: Callable[[History, str, int], Awaitable[object]]
) -> list[Tally]:
    """Take the dose in rounds of `size` faults, each with a history and an instance of its own.

    `run` is given both and the number of faults; when it returns the history is drained. One that
    waits for that in vain ends the line: what it still owes is lost.
    """
    tallies: list[Tally] = []
    for done in range(0, dose.faults, size):
        history = History()
        try:
            await run(history, f"bot-{done}", min(size, dose.faults - done))
        except TimeoutError:
            if not (found := tally(history)).lost:
                raise
            return [*tallies, found]
        tallies.append(tally(history))
        dose.tell(min(done + size, dose.faults), sum(one.acknowledged for one in tallies))
    return tallies
