from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate_server.cli.verdict import Delivery, Received, Record, Sent, judge, miscut
from tidegate_server.core.model import Conversation, FlushReason, WindowMode, WindowPolicy
from tidegate_server.core.window import Arrival, replay

TALK = Conversation("bot", "ann")
FIXED = WindowPolicy(delay_ms=400, grace_ms=100, max_wait_ms=1_500)

policies = st.builds(
    WindowPolicy,
    mode=st.sampled_from(WindowMode),
    delay_ms=st.sampled_from((0, 200, 400)),
    grace_ms=st.sampled_from((0, 100, 150)),
    max_wait_ms=st.sampled_from((400, 700)),
    max_messages=st.sampled_from((1, 3, 100)),
    max_bytes=st.sampled_from((4, 1 << 20)),
)
gaps = st.lists(st.integers(0, 500), min_size=1, max_size=25)
delays = st.lists(st.integers(0, 600), min_size=1, max_size=5)


def store(
    policy: WindowPolicy, gaps_ms: Sequence[int], delays_ms: Sequence[int], *, ties: bool
) -> list[Delivery]:
    """The batches that a store forms of these messages.

    Each is formed some delay after it is due and the batch before it is settled. `ties`: a message
    of that very millisecond is still in it.
    """
    at_ms, row = 1_000, list[Received]()
    for n, gap_ms in enumerate(gaps_ms):
        at_ms += gap_ms
        row.append(Received(f"m{n}", "x" * (1 + n % 3), n + 1, at_ms))
    batches, waiting, free_ms = list[Delivery](), list[Received](), 0
    while row or waiting:
        if not waiting:
            waiting.append(row.pop(0))
        arrivals = [Arrival(m.received_at_ms, len(m.text), 0) for m in waiting]
        window = replay(policy, arrivals)
        assert window
        delay_ms = delays_ms[len(batches) % len(delays_ms)]
        formed_ms = max(window.due_ms, free_ms) + delay_ms
        if row and row[0].received_at_ms < formed_ms + ties:
            waiting.append(row.pop(0))
            continue
        batch, waiting = waiting[: window.messages], waiting[window.messages :]
        batches.append(
            Delivery(
                f"b{len(batches)}", TALK, tuple(batch), window.due_ms, formed_ms, window.reason
            )
        )
        free_ms = formed_ms + delay_ms
    return batches


def record(deliveries: Sequence[Delivery], *, lost: Sequence[Received] = ()) -> Record:
    """That all of the messages in them were sent and acknowledged."""
    found = {m.id: m for batch in deliveries for m in batch.messages} | {m.id: m for m in lost}
    sent = [Sent(m.id, m.text) for m in sorted(found.values(), key=lambda m: m.sequence)]
    return Record({TALK: sent}, frozenset((TALK, message.id) for message in sent), deliveries)


def broken(record: Record, policy: WindowPolicy = FIXED) -> set[str]:
    return {check.name for check in judge(record, policy).checks if check.failures}


@pytest.fixture
def batches() -> list[Delivery]:
    """Three batches of 3, 2 and 1 messages."""
    made = store(FIXED, [0, 50, 50, 800, 10, 900], [0], ties=False)
    assert [len(batch.messages) for batch in made] == [3, 2, 1]
    return made


@given(policies, gaps, delays, st.booleans())
def test_what_a_store_forms_is_what_the_rules_give(
    policy: WindowPolicy, gaps_ms: list[int], delays_ms: list[int], ties: bool
) -> None:
    batches = store(policy, gaps_ms, delays_ms, ties=ties)

    assert judge(record(batches), policy).holds


@given(policies, gaps, delays, st.booleans(), st.data())
def test_a_batch_that_took_one_message_too_few_is_found(
    policy: WindowPolicy, gaps_ms: list[int], delays_ms: list[int], ties: bool, data: st.DataObject
) -> None:
    batches = store(policy, gaps_ms, delays_ms, ties=ties)
    n = data.draw(st.integers(0, len(batches) - 1))
    batch = batches[n]
    assume(len(batch.messages) > 1)
    last = batch.messages[-1]
    # In the same millisecond as the end, or as what closed the window, both may be right.
    assume(last.received_at_ms not in (batch.sealed_at_ms, batch.due_at_ms))
    rest = replace(batch, batch_id="rest", messages=(last,))
    batches[n : n + 1] = [replace(batch, messages=batch.messages[:-1]), rest]

    assert broken(record(batches), policy) == {"each batch is what the window's rules give"}


@given(policies, gaps, delays, st.data(), st.sampled_from((-1, 1)))
def test_a_window_that_ends_a_millisecond_off_is_found(
    policy: WindowPolicy, gaps_ms: list[int], delays_ms: list[int], data: st.DataObject, off: int
) -> None:
    batches = store(policy, gaps_ms, delays_ms, ties=False)
    n = data.draw(st.integers(0, len(batches) - 1))
    batches[n] = replace(batches[n], due_at_ms=batches[n].due_at_ms + off)
    # What closes a window may have come, or not, in the millisecond in which it is formed.
    assume(all(m.received_at_ms != batches[n].sealed_at_ms for m in batches[n].messages))

    assert list(miscut(policy, batches))


def test_two_batches_made_one_are_found(batches: list[Delivery]) -> None:
    first, second, third = batches
    both = replace(second, messages=first.messages + second.messages)

    assert broken(record([both, third])) == {"each batch is what the window's rules give"}


def test_a_batch_formed_too_early_is_found(batches: list[Delivery]) -> None:
    early = replace(batches[1], sealed_at_ms=batches[1].due_at_ms - 1)
    verdict = judge(record([batches[0], early, batches[2]]), FIXED)

    assert verdict.checks[-1].failures == ("batch b1 of ann was formed 1 ms before it was due",)


def test_a_wrong_reason_is_found(batches: list[Delivery]) -> None:
    batches[0] = replace(batches[0], reason=FlushReason.MAX_WAIT)

    assert broken(record(batches)) == {"each batch is what the window's rules give"}


def test_a_lost_message_is_found(batches: list[Delivery]) -> None:
    lost = batches[1].messages[1]
    batches[1] = replace(batches[1], messages=batches[1].messages[:1])
    verdict = judge(record(batches, lost=[lost]), FIXED)

    assert not verdict.holds
    assert verdict.checks[1].failures == ("m4 of ann was acknowledged and never delivered",)


def test_a_lost_batch_is_found(batches: list[Delivery]) -> None:
    assert "none is lost" in broken(record(batches[:2], lost=batches[2].messages))


def test_a_message_in_two_batches_is_found(batches: list[Delivery]) -> None:
    doubled = batches[0].messages[2]
    batches[1] = replace(batches[1], messages=(doubled, *batches[1].messages))

    assert "none is in two batches" in broken(record(batches))


def test_swapped_messages_are_found(batches: list[Delivery]) -> None:
    a, b, c = batches[0].messages
    batches[0] = replace(batches[0], messages=(a, c, b))

    assert "each conversation is in order" in broken(record(batches))


def test_swapped_batches_are_found(batches: list[Delivery]) -> None:
    assert broken(record([batches[0], batches[2], batches[1]])) == {"each conversation is in order"}


def test_messages_stored_in_another_order_than_sent_are_found(batches: list[Delivery]) -> None:
    right = record(batches)
    a, b, *others = right.sent[TALK]

    assert "each conversation is in order" in broken(replace(right, sent={TALK: [b, a, *others]}))


def test_a_changed_text_is_found(batches: list[Delivery]) -> None:
    right = record(batches)
    batches[2] = replace(batches[2], messages=(replace(batches[2].messages[0], text="y"),))

    assert broken(replace(right, deliveries=batches)) == {"none was changed or made up"}


def test_a_message_that_nobody_sent_is_found(batches: list[Delivery]) -> None:
    right = record(batches)
    sent = {TALK: right.sent[TALK][:-1]}

    assert "none was changed or made up" in broken(replace(right, sent=sent))


def test_an_add_without_an_answer_is_told(batches: list[Delivery]) -> None:
    right = record(batches)
    known = right.acknowledged - {(TALK, "m5")}

    assert broken(replace(right, acknowledged=known)) == {"every message was acknowledged"}


def test_a_batch_may_come_again_as_it_was(batches: list[Delivery]) -> None:
    again = [batches[0], *batches]

    assert judge(record(again), FIXED).figures.delivered_again == 1
    assert not broken(record(again))


@pytest.mark.parametrize(
    "change", [{"due_at_ms": 1}, {"messages": ()}, {"conversation": Conversation("bot", "ben")}]
)
def test_a_batch_that_comes_again_otherwise_is_found(
    batches: list[Delivery], change: dict[str, Any]
) -> None:
    again = [*batches, replace(batches[0], **change)]

    assert broken(record(again)) == {"a batch that comes again is the same"}


def test_conversations_do_not_mix(batches: list[Delivery]) -> None:
    other = Conversation("bot", "ben")
    mine, theirs = record(batches), [replace(b, batch_id="o" + b.batch_id) for b in batches]
    theirs = [replace(b, conversation=other) for b in theirs]
    both = Record(
        {**mine.sent, other: mine.sent[TALK]},
        mine.acknowledged | {(other, message_id) for _, message_id in mine.acknowledged},
        [*theirs, *batches],
    )

    assert not broken(both)
    assert broken(replace(both, deliveries=batches)) == {"none is lost"}


def test_the_figures_are_those_of_the_batches(batches: list[Delivery]) -> None:
    batches[1] = replace(batches[1], sealed_at_ms=batches[1].due_at_ms + 7)
    figures = judge(record(batches), FIXED).figures

    assert (figures.messages_in, figures.batches_out, figures.sizes) == (6, 3, (3, 2, 1))
    assert [figures.late_at(share) for share in (0.5, 0.99, 1)] == [0, 7, 7]
