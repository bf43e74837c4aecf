"""`tidegate track`: what became of one message."""

from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

import tidegate
from tidegate_server.cli import facts, options, output

Step = tuple[datetime | None, str, Text]


def track(
    instance: options.Instance,
    conversation: options.Conversation,
    message_id: options.MessageId,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Follow one message: when it came, its batch, each attempt, how it ended."""
    with options.connect(server, token) as gate:
        found = gate.track(instance, conversation, message_id)
    if as_json:
        output.print_json(found)
        return
    console = output.console()
    console.print(output.cell(f"{message_id} of {conversation}, {instance}", "bold"))
    table = output.table("when", "what", "")
    for at, what, more in steps(found):
        table.add_row(output.clock(at), what, more)
    console.print(table)


def steps(found: tidegate.Tracked) -> Iterator[Step]:
    """What happened to the message, in order; the last one may be still to come."""
    repeats = found.duplicates
    refused = f", {output.count(repeats, 'repeat')} refused" if repeats else ""
    yield found.received_at, "received", Text(f"number {found.sequence}{refused}")
    if found.buffer:
        yield from _in_buffer(found.received_at, found.buffer)
    if found.batch:
        yield from _in_batch(found.batch)
        for attempt in found.attempts:
            yield from _attempt(attempt)
        yield from _ending(found.batch)


def _in_buffer(at: datetime, buffer: tidegate.BufferInfo) -> Iterator[Step]:
    yield at, "buffered", Text(f"{output.count(buffer.message_count, 'message')} by now")
    over = buffer.state is tidegate.BufferState.DUE
    more = "waits to be handed out" if over else facts.window(buffer)
    yield buffer.flush_at, "window over" if over else "window", Text(more)


def _in_batch(batch: tidegate.BatchInfo) -> Iterator[Step]:
    yield batch.due_at, "window over", Text(output.word(batch.flush_reason))
    count = output.count(batch.message_count, "message")
    back = f", put back {output.count(batch.rebuffer_count, 'time')} before"
    more = f"{batch.batch_id}, {count}{back if batch.rebuffer_count else ''}"
    yield batch.sealed_at, "batch", Text(more)


def _attempt(attempt: tidegate.Attempt) -> Iterator[Step]:
    by = output.cell(f"{output.word(attempt.channel)}, {attempt.subscriber_id}")
    yield attempt.started_at, f"attempt {attempt.number}", by
    if attempt.error_reason:
        error = facts.why(attempt.error_reason, attempt.error_message)
        yield attempt.ended_at, "failed", error


def _ending(batch: tidegate.BatchInfo) -> Iterator[Step]:
    state = output.word(batch.state)
    if batch.settled_at:
        yield batch.settled_at, state, Text()
    elif batch.next_attempt_at:
        yield batch.next_attempt_at, f"attempt {batch.attempt + 1}", Text("is next")
    else:
        yield None, state, Text()
