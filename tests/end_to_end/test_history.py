"""The checker of histories finds each fault that is planted, and none where there is none."""

import pytest

from tests.support.history import (
    Accepted,
    Add,
    Delivery,
    Flush,
    History,
    Phase,
    Received,
    Settlement,
    violations,
)

CHAT = ("bot", "someone")


class Scene:
    """A history that is written by hand: each step is a tenth of a second after the one before."""

    def __init__(self) -> None:
        self.history = History()
        self._now_s = 0.0

    def add(
        self,
        name: str,
        *,
        sequence: int,
        new: bool = True,
        phase: Phase = Phase.OK,
        delay_s: float = 0.0,
        most: int = 100,
    ) -> None:
        add = Add(CHAT, name, f"payload of {name}", delay_s, most)
        operation = self.history.invoke(add, at_s=self._step())
        accepted = Accepted(sequence, new) if phase is Phase.OK else None
        self.history.end(operation, phase, add, accepted, at_s=self._step())

    def deliver(
        self, batch_id: str, *messages: tuple[str, int], attempt: int = 1, closed_by: str = "DELAY"
    ) -> None:
        received = tuple(Received(n, sequence, f"payload of {n}") for n, sequence in messages)
        delivery = Delivery(CHAT, batch_id, attempt, received, closed_by)
        self.history.deliver(delivery, at_s=self._step())

    def settle(
        self,
        batch_id: str,
        *,
        attempt: int = 1,
        final: bool = True,
        rebuffers: bool = False,
        phase: Phase = Phase.OK,
    ) -> None:
        settlement = Settlement(batch_id, attempt, final, rebuffers)
        operation = self.history.invoke(settlement, at_s=self._step())
        self.history.end(operation, phase, settlement, at_s=self._step())

    def flush(self) -> None:
        self.history.invoke(Flush(CHAT), at_s=self._step())

    def _step(self) -> float:
        self._now_s += 0.1
        return self._now_s

    def expect(self, *sentences: str) -> None:
        assert violations(self.history) == list(sentences)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_history_as_promised_has_no_violation(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m2", sequence=2)
    scene.add("m2", sequence=2, new=False)
    scene.add("refused", sequence=0, phase=Phase.FAIL)
    scene.add("perhaps", sequence=0, phase=Phase.UNKNOWN)
    scene.add("perhaps not", sequence=0, phase=Phase.UNKNOWN)
    scene.deliver("b1", ("m1", 1), ("m2", 2), ("perhaps", 3))
    scene.settle("b1", final=False)
    scene.deliver("b1", ("m1", 1), ("m2", 2), ("perhaps", 3), attempt=2)
    scene.settle("b1", attempt=2)
    scene.add("m4", sequence=4)
    scene.deliver("b2", ("m4", 4))
    assert not scene.history.drained()
    scene.settle("b2")
    scene.expect()
    assert scene.history.drained()


def test_a_lost_message_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.expect("message m1 was acknowledged and never delivered")
    assert violations(scene.history, drained=False) == []


def test_a_batch_that_nobody_settled_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1))
    scene.expect("batch b1 was delivered and never settled")


def test_a_message_in_two_batches_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.deliver("b2", ("m1", 1))
    scene.settle("b2")
    scene.expect(
        "message m1 was delivered in the batches ['b1', 'b2']",
        "message m1 of bot came out of order",
    )


def test_a_message_in_a_second_batch_after_it_was_rebuffered_is_no_violation(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1", rebuffers=True)
    scene.deliver("b2", ("m1", 1))
    scene.settle("b2")
    scene.expect()


def test_a_message_that_was_rebuffered_and_never_came_again_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1", rebuffers=True)
    scene.expect("message m1 was acknowledged and never delivered again")


def test_a_redelivery_with_other_messages_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m2", sequence=2)
    scene.deliver("b1", ("m1", 1))
    scene.deliver("b1", ("m1", 1), ("m2", 2), attempt=2)
    scene.settle("b1", attempt=2)
    scene.expect("batch b1 changed between deliveries")


def test_messages_out_of_order_are_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m2", sequence=2)
    scene.deliver("b1", ("m2", 2), ("m1", 1))
    scene.settle("b1")
    scene.expect("message m1 of bot came out of order")


def test_batches_out_of_order_are_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m2", sequence=2)
    scene.deliver("b2", ("m2", 2))
    scene.settle("b2")
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.expect("message m1 of bot came out of order")


def test_a_batch_that_begins_before_the_one_before_is_settled_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m2", sequence=2)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1", phase=Phase.FAIL)
    scene.deliver("b2", ("m2", 2))
    scene.settle("b1")
    scene.settle("b2")
    scene.expect("batch b2 was delivered while b1 was not settled")


def test_a_batch_that_comes_again_after_it_was_settled_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.deliver("b1", ("m1", 1), attempt=2)
    scene.expect("batch b1 was delivered again after it was settled")


def test_a_batch_that_comes_again_before_its_lease_is_over_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    for attempt, until_s in ((1, 31.0), (2, 32.0)):
        received = (Received("m1", 1, "payload of m1"),)
        delivery = Delivery(
            CHAT, "b1", attempt, received, formed_s=1.0, until_s=until_s, lease_s=30.0
        )
        scene.history.deliver(delivery, at_s=float(attempt))
    scene.settle("b1", attempt=2)
    scene.expect("batch b1 was delivered again before its lease was over")


def test_a_message_that_nobody_sent_is_found(scene: Scene):
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.expect("message m1 was delivered and never sent")


def test_a_message_that_was_refused_is_found(scene: Scene):
    scene.add("m1", sequence=0, phase=Phase.FAIL)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.expect("message m1 was delivered and had been refused")


def test_another_payload_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    received = Received("m1", 1, b"payload of m1")
    scene.history.deliver(Delivery(CHAT, "b1", 1, (received,)), at_s=1.0)
    scene.settle("b1")
    scene.expect("message m1 was delivered with another payload")


def test_an_id_that_is_taken_twice_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.add("m1", sequence=2)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.expect("message m1 was taken as new twice", "message m1 has several places")


def test_a_message_in_another_place_than_was_said_is_found(scene: Scene):
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 2))
    scene.settle("b1")
    scene.expect("message m1 has several places")


def test_a_batch_that_comes_too_early_is_found(scene: Scene):
    scene.add("m1", sequence=1, delay_s=0.5)
    scene.deliver("b1", ("m1", 1))
    scene.settle("b1")
    scene.expect("batch b1 came before its window could close")


def test_a_batch_that_is_formed_too_early_and_comes_late_is_found(scene: Scene):
    scene.add("m1", sequence=1, delay_s=0.05)
    received = (Received("m1", 1, "payload of m1", taken_s=7.0),)
    scene.history.deliver(Delivery(CHAT, "b1", 1, received, formed_s=7.045), at_s=1.0)
    scene.settle("b1")
    scene.expect("batch b1 came before its window could close")


def test_a_batch_that_claims_to_be_full_and_is_not_is_found(scene: Scene):
    scene.add("m1", sequence=1, delay_s=60, most=2)
    scene.deliver("b1", ("m1", 1), closed_by="MAX_MESSAGES")
    scene.settle("b1")
    scene.expect("batch b1 came before its window could close")


def test_a_flush_that_nobody_asked_for_is_found(scene: Scene):
    scene.add("m1", sequence=1, delay_s=60)
    scene.deliver("b1", ("m1", 1), closed_by="REQUESTED")
    scene.settle("b1")
    scene.expect("batch b1 came before its window could close")


def test_a_flush_that_somebody_asked_for_is_no_violation(scene: Scene):
    scene.add("m1", sequence=1, delay_s=60)
    scene.flush()
    scene.deliver("b1", ("m1", 1), closed_by="REQUESTED")
    scene.settle("b1")
    scene.expect()


def test_a_later_message_in_an_earlier_place_is_found(scene: Scene):
    scene.add("m2", sequence=2)
    scene.add("m1", sequence=1)
    scene.deliver("b1", ("m1", 1), ("m2", 2))
    scene.settle("b1")
    scene.expect("message m1 has a place before one that was there already")
