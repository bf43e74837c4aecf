"""`tidegate conversations`: everything that is going on, soonest first."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

import tidegate
from tidegate_server.cli import facts, options, output


def conversations(
    *,
    instance: options.OnlyInstance = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """List conversations with messages in hand, soonest first."""
    with options.connect(server, token) as gate:
        found = list(islice(gate.conversations(instance), limit + 1))
    for info in found[:limit] if as_json else ():
        output.print_json(info)
    if not as_json:
        _show(found[:limit])
    if len(found) > limit:
        note = Text(f"there are more; --limit {limit * 2} shows twice as many", "dim")
        output.console(stderr=True).print(note)


def _show(found: list[tidegate.ConversationInfo]) -> None:
    if not found:
        output.console().print("nothing is waiting")
        return
    right = ("in batch", "waiting")
    table = output.table("instance", "conversation", "state", *right, "next", right=right)
    for info in found:
        batch, buffer = info.current_batch, info.buffer
        table.add_row(
            output.cell(info.instance),
            output.cell(info.conversation),
            _state(info),
            f"{batch.message_count:,}" if batch else "",
            f"{buffer.message_count:,}" if buffer else "",
            _next(info),
        )
    output.console().print(table)


def _state(info: tidegate.ConversationInfo) -> Text:
    if info.current_batch:
        return facts.batch_state(info.current_batch.state)
    return Text(output.word(info.buffer.state) if info.buffer else "")


def _next(info: tidegate.ConversationInfo) -> str:
    """What happens next, and when: the batch comes before the buffer."""
    batch = info.current_batch
    if batch is None:
        return facts.window(info.buffer) if info.buffer else ""
    if batch.next_attempt_at is None:
        return f"attempt {batch.attempt} ends"
    left_s = (batch.next_attempt_at - datetime.now(UTC)).total_seconds()
    when = f"in {output.seconds(left_s)}" if left_s > 0 else "waits for a subscriber"
    return f"attempt {batch.attempt + 1} {when}"
