"""How far the searches go."""

from dataclasses import dataclass

from tests.model.rules import Rules
from tests.model.system import System


@dataclass(frozen=True, slots=True)
class Bound:
    """Messages of each conversation, most troubles, and whether a failover is among them."""

    chats: tuple[int, ...]
    troubles: int
    failover: bool = True

    def __str__(self) -> str:
        chats = " + ".join(map(str, self.chats))
        lost = "with failovers" if self.failover else "without failovers"
        return f"{chats} messages, {self.troubles} troubles {lost}"

    def system(self, rules: Rules) -> System:
        return System(rules, chats=self.chats, troubles=self.troubles, failover=self.failover)


SHORT = (Bound((3,), 1), Bound((2,), 2), Bound((1, 1), 1))
LARGE = (Bound((4,), 1), Bound((2, 2), 1), Bound((3,), 2), Bound((1, 1), 2), Bound((1,), 3))
MUTANT = Bound((3,), 3)
