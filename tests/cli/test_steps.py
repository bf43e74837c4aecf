"""Stepping in: windows, single messages, dead letters, and what is erased."""

from datetime import timedelta

import pytest

import tidegate.blocking
from tests.cli.conftest import Call, objects
from tidegate import NackAction, NotFound

TEN_S = timedelta(seconds=10)


def waiting(gate: tidegate.blocking.Client, instance: str) -> int:
    """Messages in ann's buffer."""
    try:
        buffer = gate.status(instance, "ann").buffer
    except NotFound:
        return 0
    return buffer.message_count if buffer else 0


@pytest.fixture
def letter(gate: tidegate.blocking.Client, instance: str) -> str:
    """The id of a dead letter of ann's."""
    gate.add(instance, "ann", "hi", flush=True)
    (batch,) = gate.pull(instance, wait=TEN_S)
    batch.nack(NackAction.DEAD_LETTER)
    return batch.id


def test_a_window_can_be_held_open(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    gate.add(instance, "ann", "hi")
    (held,) = objects(call("hold", instance, "ann", "--for", "20s", "--json", **on))

    assert (held["held"], held["buffer"]["state"]) == (True, "open")
    assert call("hold", instance, "ann", **on).lines[0].startswith("✓ the window closes in ")
    assert call("hold", instance, "bob", **on).lines == ["= no window was open; nothing changed"]


def test_a_message_can_be_amended_and_removed(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    for message_id in ("m1", "m2"):
        gate.add(instance, "ann", "hi", message_id=message_id)
    amended = call("amend", instance, "ann", "m1", "bye", **on).lines
    removed = call("remove", instance, "ann", "m2", **on).lines
    gate.flush(instance, "ann")
    (batch,) = gate.pull(instance, wait=TEN_S)
    late = call("amend", instance, "ann", "m1", "late", **on)

    assert amended[0].startswith("✓ m1 is amended; closes in ")
    assert removed == ["✓ m2 is gone; 1 message left"]
    assert [message.text for message in batch.messages] == ["bye"]
    assert (late.code, len(late.err.splitlines())) == (1, 1)


def test_what_waits_can_be_discarded(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    gate.add(instance, "ann", "hi")

    assert call("discard", instance, "ann", **on).lines == ["✓ 1 message dropped"]
    assert objects(call("discard", instance, "ann", "--json", **on)) == [{"discarded": 0}]
    assert waiting(gate, instance) == 0


def test_batches_can_be_put_back_for_another_window(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    gate.add(instance, "ann", "hi", flush=True)

    assert call("subscribe", instance, "--count", "1", "--nack", "rebuffer", **on).code == 0
    assert waiting(gate, instance) == 1


def test_a_dead_letter_can_be_delivered_anew(
    call: Call, gate: tidegate.blocking.Client, letter: str, instance: str, on: dict[str, str]
) -> None:
    assert call("dead-letters", "requeue", letter, **on).lines == [f"✓ {letter} is delivered anew"]
    (batch,) = gate.pull(instance, wait=TEN_S)
    assert batch.messages[0].text == "hi"
    assert call("dead-letters", "requeue", letter, **on).lines == [
        f"= {letter} is no dead letter, or no longer; nothing changed"
    ]


def test_a_dead_letter_is_deleted_only_after_a_yes(
    call: Call, gate: tidegate.blocking.Client, letter: str, instance: str, on: dict[str, str]
) -> None:
    delete = ("dead-letters", "delete", letter)
    refused, silent = call(*delete, stdin="n\n", **on), call(*delete, **on)
    assert [info.batch_id for info in gate.dead_letters(instance)] == [letter]
    done = call(*delete, "--json", stdin="y\n", **on)

    assert (refused.code, silent.code) == (1, 1)
    assert refused.err.splitlines()[-1] == "tidegate: nothing was done"
    assert "--yes" in silent.err
    assert objects(done) == [{"batch_id": letter, "applied": True}]
    assert not list(gate.dead_letters(instance))


def test_more_ids_than_a_call_takes_are_taken(call: Call, on: dict[str, str]) -> None:
    ids = [f"0-{number}-1" for number in range(150)]

    done = objects(call("dead-letters", "delete", *ids, "--yes", "--json", **on))
    assert done == [{"batch_id": batch_id, "applied": False} for batch_id in ids]


def test_a_conversation_is_erased_only_after_a_yes(
    call: Call, gate: tidegate.blocking.Client, letter: str, instance: str, on: dict[str, str]
) -> None:
    gate.add(instance, "ann", "hi")
    refused = call("erase", instance, "ann", stdin="n\n", **on)
    assert waiting(gate, instance) == 1
    erased = call("erase", instance, "ann", "--yes", **on)

    assert f"Erase all that is stored of ann of {instance}?" in refused.err
    assert (refused.code, erased.code) == (1, 0)
    assert erased.lines == ["✓ 2 messages erased"]
    assert waiting(gate, instance) == 0
    assert not list(gate.dead_letters(instance))
