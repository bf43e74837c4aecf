import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_server.cli.endings import Failure
from tidegate_server.cli.replay.plan import (
    SHORTEST_DELAY_MS,
    Session,
    TraceMessage,
    plan,
    read,
    scale,
)
from tidegate_server.cli.verdict import Sent
from tidegate_server.core.model import Conversation, WindowPolicy

LINE = {"t": 0, "instance": "bot", "conversation": "ann", "message_id": "m1", "text": "hi"}


def message(at_s: float, number: int, who: str = "ann") -> TraceMessage:
    return TraceMessage(at_s, Conversation("bot", who), Sent(f"m{number}", "hi"))


def planned(
    *messages: TraceMessage, speed: float = 1, session_gap_s: float = 600, max_gap_s: float = 60
) -> list[Session]:
    return plan(messages, speed=speed, session_gap_s=session_gap_s, max_gap_s=max_gap_s, run="r")


def test_a_long_silence_begins_a_session_of_its_own_name() -> None:
    sessions = planned(message(0, 1), message(600, 2), message(1201, 3))

    assert {s.conversation.name: [m.id for m in s.messages] for s in sessions} == {
        "ann#1.r": ["m1", "m2"],
        "ann#2.r": ["m3"],
    }


def test_silences_are_cut_and_then_sped_up() -> None:
    (session,) = planned(message(5, 1), message(15, 2), message(300, 3), speed=10)

    assert session.offsets_s == (0, 1, 7)


def test_the_longest_session_comes_first() -> None:
    talks = (message(0, 1, "ann"), message(0, 2, "ben"), message(9, 3, "ben"))

    assert [session.conversation.name for session in planned(*talks)] == ["ben#1.r", "ann#1.r"]


@given(st.lists(st.tuples(st.floats(0, 10_000), st.sampled_from("abc"))), st.floats(0.1, 100))
def test_each_message_is_played_once_and_in_order(
    moments: list[tuple[float, str]], speed: float
) -> None:
    messages = [message(at, n, who) for n, (at, who) in enumerate(sorted(moments))]
    sessions = planned(*messages, speed=speed)
    played = [m.id for session in sessions for m in session.messages]

    assert sorted(played) == sorted(item.message.id for item in messages)
    assert len({session.conversation for session in sessions}) == len(sessions)
    for session in sessions:
        assert list(session.offsets_s) == sorted(session.offsets_s)
        assert [m.id for m in session.messages] == sorted(
            (m.id for m in session.messages), key=lambda name: int(name[1:])
        )


def test_all_times_of_a_window_shrink_alike() -> None:
    assert scale(WindowPolicy(), 20) == WindowPolicy(delay_ms=400, grace_ms=100, max_wait_ms=1_500)


def test_a_window_does_not_shrink_below_the_shortest() -> None:
    policy = scale(WindowPolicy(), 10_000)

    assert policy == WindowPolicy(delay_ms=SHORTEST_DELAY_MS, grace_ms=12, max_wait_ms=188)


@given(st.integers(0, 3_600_000), st.integers(0, 10_000), st.floats(0.01, 1e6))
def test_a_scaled_policy_is_one_that_a_server_takes(
    delay_ms: int, extra_ms: int, speed: float
) -> None:
    policy = WindowPolicy(
        delay_ms=delay_ms, grace_ms=min(extra_ms, delay_ms), max_wait_ms=delay_ms + extra_ms
    )
    scaled = scale(policy, max(speed, delay_ms / 3_600_000))

    assert 0 <= scaled.grace_ms <= scaled.delay_ms <= scaled.max_wait_ms
    assert scaled.delay_ms >= min(SHORTEST_DELAY_MS, delay_ms)


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_a_trace_is_read_in_order_of_time(tmp_path: Path, name: str) -> None:
    lines = [LINE | {"t": 7.5}, LINE | {"message_id": "m2"}]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)

    assert [(m.at_s, m.message.id) for m in read(tmp_path / name)] == [(0, "m2"), (7.5, "m1")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no messages"),
        ("{", "line 1: it must be a JSON object with t, instance"),
        ("[]", "line 1: it must be a JSON object"),
        (json.dumps(LINE) + "\n\n", "line 2: it must be"),
        (json.dumps(LINE | {"text": 7}), "line 1: it must be"),
        (json.dumps(LINE | {"t": "soon"}), "line 1: t must be a number of seconds"),
        (json.dumps(LINE | {"t": float("nan")}), "line 1: t must be a number of seconds"),
        (json.dumps(LINE) + "\n" + json.dumps(LINE), "ann has two messages with the id m1"),
    ],
)
def test_what_is_no_trace_is_refused_with_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(text)

    with pytest.raises(Failure, match=why):
        read(file)


def test_files_that_cannot_be_read_are_refused_with_a_sentence(tmp_path: Path) -> None:
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(b"no gzip")

    with pytest.raises(Failure, match="is no trace"):
        read(packed)
    with pytest.raises(Failure, match="No such file"):
        read(tmp_path / "missing.jsonl")
