from tidegate_server.core.model import Conversation
from tidegate_server.engine.backlog import Backlog

EVERYTHING: frozenset[str] = frozenset()


def filled(*names: str, limit: int = 100) -> Backlog:
    backlog = Backlog(limit=limit)
    for name in names:
        backlog.add(Conversation(name[0], name))
    return backlog


def drained(backlog: Backlog, instances: frozenset[str] = EVERYTHING) -> list[str]:
    names: list[str] = []
    while conversation := backlog.take(instances):
        names.append(conversation.name)
    return names


def test_instances_take_turns_whatever_the_length_of_their_lines():
    assert drained(filled("b1", "b2", "b3", "b4", "a1", "a2")) == [
        "b1", "a1", "b2", "a2", "b3", "b4"
    ]  # fmt: skip


def test_a_newcomer_waits_for_one_round_only():
    backlog = filled(*(f"b{n}" for n in range(1_000)))
    for _ in range(10):
        backlog.take(EVERYTHING)
    backlog.add(Conversation("a", "a1"))
    assert [backlog.take(EVERYTHING), backlog.take(EVERYTHING)] == [
        Conversation("b", "b10"),
        Conversation("a", "a1"),
    ]


def test_those_that_were_named_take_turns_among_themselves():
    backlog = filled("a1", "a2", "b1", "c1", "c2")
    assert drained(backlog, frozenset("acx")) == ["a1", "c1", "a2", "c2"]
    assert drained(backlog) == ["b1"]


def test_a_full_line_takes_no_more_and_knows_those_it_has():
    backlog = filled("a1", "a2", limit=2)
    assert backlog.add(Conversation("a", "a1"))
    assert not backlog.add(Conversation("a", "a3"))
    assert backlog.add(Conversation("b", "b1"))
    assert drained(backlog) == ["a1", "b1", "a2"]


def test_a_line_can_be_dropped():
    backlog = filled("a1", "b1")
    assert backlog.drop("a") == [Conversation("a", "a1")]
    assert backlog.drop("a") == []
    assert list(backlog) == ["b"]
