import tidegate.blocking
from tests.cli.conftest import Call, objects, run, running
from tests.support.servers import Server
from tidegate import BatchState, WindowMode

CONVERSATION = "+49 170 1234567"


def test_each_text_is_a_message(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    said = call("send", instance, CONVERSATION, "hi", "wait", "make it two", **on)

    assert (said.code, said.err) == (0, "")
    assert said.lines == [
        "✓ 1 message, window opens: closes in 8.00 s",
        *[line for line in said.lines if line.startswith(("✓ 2 messages", "✓ 3 messages"))],
    ]
    buffer = gate.status(instance, CONVERSATION).buffer
    assert buffer
    assert buffer.message_count == 3


def test_each_line_of_standard_input_is_a_message(
    call: Call, instance: str, on: dict[str, str]
) -> None:
    sent = call("send", instance, CONVERSATION, "-", "--flush", stdin="a\n\nb c\n", **on)
    (batch,) = objects(call("subscribe", instance, "--count", "1", "--json", **on))

    assert sent.lines[-1] == "✓ 2 messages, and the window is closed"
    assert [message["payload"] for message in batch["messages"]] == ["a", "b c"]


def test_an_id_is_taken_once(call: Call, instance: str, on: dict[str, str]) -> None:
    call("send", instance, CONVERSATION, "hi", "--id", "m1", **on)

    assert call("send", instance, CONVERSATION, "hi", "--id", "m1", **on).lines == [
        "= m1 had been taken before; nothing changed"
    ]


def test_the_window_can_be_chosen(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    policy = ("--mode", "sliding", "--delay", "5m", "--max-wait", "1h", "--max-messages", "7")
    (added,) = objects(call("send", instance, CONVERSATION, "hi", *policy, "--json", **on))

    assert added["outcome"] == "buffered"
    buffer = gate.status(instance, CONVERSATION).buffer
    assert buffer
    assert (buffer.policy.mode, buffer.policy.max_messages) == (WindowMode.SLIDING, 7)
    assert added["buffer"]["policy"]["delay"] == 300


def test_batches_are_shown_and_acknowledged(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    call("send", instance, CONVERSATION, "hi", "two\nlines", "--flush", **on)
    shown = call("subscribe", instance, "--count", "1", **on)

    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0] == f"{CONVERSATION} of {instance} · 2 messages"
    assert [line.split("  ")[-1] for line in shown.lines[1:4]] == ["hi", "two", "lines"]
    assert "(requested)" in shown.lines[4]
    settled = gate.status(instance, CONVERSATION).last_batch
    assert settled
    assert settled.state is BatchState.COMPLETED


def test_a_batch_given_back_comes_again(call: Call, instance: str, on: dict[str, str]) -> None:
    call("send", instance, CONVERSATION, "hi", "--flush", **on)
    first, second = objects(
        call("subscribe", instance, "--count", "2", "--nack", "retry", "--json", **on)
    )

    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["messages"] == second["messages"]


def test_what_others_wrote_does_not_steer_the_terminal(
    call: Call, instance: str, on: dict[str, str]
) -> None:
    call("send", instance, CONVERSATION, "\x1b[2Jgone\x9b1m [red]x[/]", "--flush", **on)

    assert "\\x1b[2Jgone\\x9b1m [red]x[/]" in call("subscribe", instance, "--count", "1", **on).out


def test_a_conversation_can_be_looked_at_and_flushed(
    call: Call, instance: str, on: dict[str, str]
) -> None:
    place = (instance, CONVERSATION)
    call("send", *place, "hi", **on)

    assert "messages        1 (2 bytes)" in call("status", *place, **on).lines
    (status,) = objects(call("status", *place, "--json", **on))
    assert (status["buffer"]["state"], status["last_batch"]) == ("open", None)
    flushed = "✓ the window is closed; 1 message will be handed out"
    assert call("flush", *place, **on).lines == [flushed]
    assert call("flush", instance, "nobody", **on).lines == [
        "= no window was open; nothing changed"
    ]
    assert objects(call("flush", instance, "nobody", "--json", **on)) == [
        {"flushed": False, "buffer": None}
    ]


def test_dead_letters_are_listed_and_shown(call: Call, instance: str, on: dict[str, str]) -> None:
    call("send", instance, CONVERSATION, "poison", "--flush", **on)
    call("subscribe", instance, "--count", "1", "--nack", "dead-letter", **on)
    listed = call("dead-letters", "--instance", instance, **on).lines
    (letter,) = objects(call("dead-letters", "list", "--instance", instance, "--json", **on))
    batch_id = letter["batch_id"]
    shown = call("dead-letters", "show", batch_id, **on).out

    assert listed[0].split()[:3] == ["batch", "instance", "conversation"]
    assert listed[1].startswith(batch_id)
    assert listed[1].endswith("NACKED: asked for on the command line")
    assert "poison" in shown
    assert "dead-lettered" in shown
    (details,) = objects(call("dead-letters", "show", batch_id, "--json", **on))
    assert details["attempts"][0]["error_reason"] == "NACKED"
    assert call("dead-letters", "--instance", "nobody", **on).lines == ["no dead letters"]


def test_stats_are_for_people_and_for_programs(
    call: Call, instance: str, on: dict[str, str]
) -> None:
    call("send", instance, CONVERSATION, "hi", **on)
    (stats,) = objects(call("stats", "--instance", instance, "--json", **on))

    assert (stats["open_buffers"], stats["buffered_messages"]) == (1, 1)
    assert stats["server"]["durability"] == "everysec"
    assert [line for line in call("stats", **on).lines if line.startswith("dead letters")]


def test_ctrl_c_ends_a_subscription_quietly(server: Server, instance: str) -> None:
    with running("subscribe", instance, "--json", "-s", server.target) as process:
        run("send", instance, CONVERSATION, "hi", "--flush", TIDEGATE_ADDRESS=server.target)
        assert process.stdout
        assert process.stdout.readline()
        process.send_signal(2)

        assert process.communicate() == ("", "")
    assert process.returncode == 130
