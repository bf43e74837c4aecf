"""The rules hold in every state of the model, and each broken one is found out."""

import pytest

from tests.model.bounds import MUTANT, SHORT, Bound
from tests.model.mutants import MUTANTS, NoWait
from tests.model.rules import Rules
from tests.model.search import search


@pytest.mark.parametrize("bound", SHORT, ids=str)
def test_no_state_contradicts_the_promise_and_all_can_come_to_rest(bound: Bound):
    found = search(bound.system(Rules()))
    assert found.states > 1_000
    assert found.sentence == ""
    assert found.dead_ends == 0


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found_out(name: str):
    found = search(MUTANT.system(MUTANTS[name]()))
    assert found.sentence
    assert found.trace[-1][0].name in found_by(name)


def found_by(name: str) -> tuple[str, ...]:
    """The last step before the contradiction is there for all to see."""
    match name:
        case "no-wait":
            return ("failover",)
        case "old-primary":
            return ("return of old primary",)
        case "id-forgotten":
            return ("add",)
        case "due-entry-stays" | "nonce-forgotten":
            return ("claim",)
        case "sealed-takes-more" | "expiry-reforms" | "claim-unconfirmed" | "nack-reorders":
            return ("answer",)
        case _:
            return ("ack", "nack")


def test_without_a_failover_nothing_has_to_wait_for_a_replica():
    found = search(Bound((2,), 1, failover=False).system(NoWait()))
    assert (found.sentence, found.dead_ends) == ("", 0)
