"""What goes on: `conversations`, `track`, `tail`."""

import json
import subprocess
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

import tidegate.blocking
from tests.cli.conftest import Call, objects, running
from tests.support.servers import Server
from tidegate import NackAction, WindowPolicy

SOON, LATER = WindowPolicy(delay=timedelta(minutes=1)), WindowPolicy(delay=timedelta(hours=1))


@pytest.fixture
def batch(gate: tidegate.blocking.Client, instance: str) -> tidegate.blocking.Batch:
    """Of one message of ann's."""
    gate.add(instance, "ann", "hi", message_id="m1", flush=True)
    (pulled,) = gate.pull(instance, wait=timedelta(seconds=10))
    return pulled


def test_conversations_are_listed_soonest_first(
    call: Call,
    gate: tidegate.blocking.Client,
    batch: tidegate.blocking.Batch,
    instance: str,
    on: dict[str, str],
) -> None:
    gate.add(instance, "later", "hi", policy=LATER)
    gate.add(instance, "soon", "hi", policy=SOON)
    gate.add(instance, "soon", "hi")
    head, *rows = call("conversations", "--instance", instance, **on).out.splitlines()

    assert head.split() == ["instance", "conversation", "state", "in", "batch", "waiting", "next"]
    found = {row.split()[1]: row.split()[2:] for row in rows}
    assert found["ann"] == ["delivering", "1", "attempt", "1", "ends"]
    assert found["soon"][:4] == ["open", "2", "closes", "in"]
    assert list(found).index("soon") < list(found).index("later")
    assert len({row.index("in ") for row in rows if " in " in row}) == 1, "it is aligned"
    listed = objects(call("conversations", "--instance", instance, "--json", **on))
    assert {one["conversation"] for one in listed} == {"ann", "soon", "later"}


def test_no_more_conversations_are_listed_than_asked_for(
    call: Call, gate: tidegate.blocking.Client, instance: str, on: dict[str, str]
) -> None:
    for name in ("ann", "bob", "cid"):
        gate.add(instance, name, "hi")
    listed = call("conversations", "--instance", instance, "--limit", "2", "--json", **on)

    assert len(objects(listed)) == 2
    assert listed.err == "there are more; --limit 4 shows twice as many\n"
    assert call("conversations", "--instance", "nobody", **on).lines == ["nothing is waiting"]


def test_a_message_is_tracked_from_its_buffer_to_its_end(
    call: Call,
    gate: tidegate.blocking.Client,
    batch: tidegate.blocking.Batch,
    instance: str,
    on: dict[str, str],
) -> None:
    gate.add(instance, "bob", "hi", message_id="m2", policy=LATER)
    gate.add(instance, "bob", "hi", message_id="m2")
    waiting = call("track", instance, "bob", "m2", **on).lines
    batch.nack(NackAction.RETRY, reason="not now")
    (batch,) = gate.pull(instance, wait=timedelta(seconds=10))
    batch.ack()
    ended = call("track", instance, "ann", "m1", **on).lines

    assert waiting[0] == f"m2 of bob, {instance}"
    assert [line.split()[1] for line in waiting[2:]] == ["received", "buffered", "window"]
    assert waiting[2].endswith("1 repeat refused")
    assert "closes in" in waiting[-1]
    assert [" ".join(line.split()[1:3]).rstrip(",") for line in ended[2:]] == [
        "received number",
        "window over",
        f"batch {batch.id}",
        "attempt 1",
        "failed NACKED:",
        "attempt 2",
        "completed",
    ]
    assert [line.split()[0] for line in ended[2:]] == sorted(line.split()[0] for line in ended[2:])
    (tracked,) = objects(call("track", instance, "ann", "m1", "--json", **on))
    assert tracked["batch"]["state"] == "completed"
    assert len(tracked["attempts"]) == 2


def test_a_message_that_nobody_knows_is_one_sentence(
    call: Call, instance: str, on: dict[str, str]
) -> None:
    ended = call("track", instance, "ann", "m1", **on)

    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1


def lines_of(process: "subprocess.Popen[str]", name: str, last: str) -> Iterator[str]:
    """The lines about one conversation, up to the one that has this word."""
    assert process.stdout
    for line in process.stdout:
        if name in line:
            yield line
            if last in line:
                return


@contextmanager
def watching(gate: tidegate.blocking.Client, instance: str) -> Generator[threading.Event]:
    """Somebody else writes until the event is set: who sees one of these messages watches."""
    seen = threading.Event()

    def write() -> None:
        while not seen.wait(0.1):
            gate.add(instance, "prober", "?", policy=LATER)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield seen
    finally:
        seen.set()
        writer.join()


def live_through_it(gate: tidegate.blocking.Client, instance: str) -> None:
    """A message of ann's comes twice, is given back, and is processed."""
    for _ in range(2):
        gate.add(instance, "ann", "hi \x1b", message_id="m1", flush=True)
    for attempt in (1, 2):
        (batch,) = gate.pull(instance, wait=timedelta(seconds=10))
        batch.nack(reason="not now") if attempt == 1 else batch.ack()


def test_events_are_shown_as_they_happen(
    server: Server, gate: tidegate.blocking.Client, instance: str
) -> None:
    with running("tail", instance, "-s", server.target) as process:
        with watching(gate, instance) as seen:
            next(lines_of(process, "prober", "prober"))
            seen.set()
        live_through_it(gate, instance)
        lines = list(lines_of(process, "ann", "completed"))
        process.send_signal(2)
        _, errors = process.communicate()

    assert (process.returncode, errors) == (130, "")
    assert [line.split()[1] for line in lines] == [
        *("added", "duplicate"),
        *("delivered", "retry-scheduled", "delivered", "completed"),
    ]
    assert len({line.index(instance) for line in lines}) == 1, "it is aligned"
    assert "again in" in lines[3]
    assert "hi" not in "".join(lines).replace(instance, "")


def test_a_tail_ends_after_as_many_events_as_asked_for(
    server: Server, gate: tidegate.blocking.Client, instance: str
) -> None:
    once = ("tail", instance, "--count", "1", "--json", "-s", server.target)
    with running(*once) as process, watching(gate, instance):
        out, errors = process.communicate()

    assert (process.returncode, errors) == (0, "")
    (event,) = [json.loads(line) for line in out.splitlines()]
    assert (event["kind"], event["conversation"]) == ("message-added", "prober")
    assert event["buffer"]["state"] == "open"
