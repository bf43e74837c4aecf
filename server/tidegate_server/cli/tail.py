"""`tidegate tail`: what happens, as it happens."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.text import Text

import tidegate
from tidegate_server.cli import options, output, troubles

_STYLES = {
    tidegate.EventKind.MESSAGE_DUPLICATE: "dim",
    tidegate.EventKind.BATCH_DELIVERED: "cyan",
    tidegate.EventKind.BATCH_COMPLETED: "green",
    tidegate.EventKind.BATCH_RETRY_SCHEDULED: "yellow",
    tidegate.EventKind.BATCH_REBUFFERED: "yellow",
    tidegate.EventKind.LEASE_EXPIRED: "yellow",
    tidegate.EventKind.BATCH_DEAD_LETTERED: "red",
}
_WIDEST = 32  # of a column that others fill; longer names push the rest aside


def tail(
    instance: Annotated[
        str | None, typer.Argument(help="Only this instance; all if none is named.")
    ] = None,
    *,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many events.")] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Watch what happens to messages and batches, live.

    A line an event, never with a payload. What this is too slow to read is
    left out and counted.
    """
    line = Lines()
    troubles.note_them()
    with options.connect(server, token) as gate:
        troubles.must_answer(gate)
        for event in islice(gate.watch(instance), count):
            if as_json:
                output.print_json(event)
            else:
                output.console().print(line.of(event), soft_wrap=True)


class Lines:
    """Events as lines whose columns are as wide as they have ever had to be."""

    def __init__(self) -> None:
        self._widths = {"kind": 15, "instance": 0, "conversation": 0}

    def of(self, event: tidegate.Event) -> Text:
        """The line of one event."""
        kind = output.word(event.kind).removeprefix("message-").removeprefix("batch-")
        line = Text()
        if event.dropped:
            line.append(f"{output.count(event.dropped, 'event')} left out\n", "dim")
        line.append(f"{output.clock(event.time)}  ", "dim")
        line.append(self._padded("kind", kind), _STYLES.get(event.kind, ""))
        line.append(self._padded("instance", event.instance), "dim")
        line.append(self._padded("conversation", event.conversation), "bold")
        line.append(_more(event))
        return line

    def _padded(self, column: str, text: str) -> str:
        text = output.printable(text)
        self._widths[column] = min(max(self._widths[column], cell_len(text)), _WIDEST)
        return text + " " * (max(self._widths[column] - cell_len(text), 0) + 2)


def _more(event: tidegate.Event) -> str:
    parts = _of_batch(event, event.batch) if event.batch else _of_message(event)
    return " · ".join(parts)


def _of_batch(event: tidegate.Event, batch: tidegate.BatchInfo) -> Iterator[str]:
    yield batch.batch_id
    if batch.message_count:  # unknown where the batch was handed out by another server
        yield output.count(batch.message_count, "message")
    if batch.attempt > 1:
        yield f"attempt {batch.attempt}"
    if batch.next_attempt_at:
        yield f"again in {_until(batch.next_attempt_at, event)}"


def _of_message(event: tidegate.Event) -> Iterator[str]:
    yield output.printable(event.message_id)
    if buffer := event.buffer:
        yield f"{buffer.message_count:,} waiting"
        yield f"closes in {_until(buffer.flush_at, event)}"


def _until(at: datetime, event: tidegate.Event) -> str:
    return output.seconds(max((at - event.time).total_seconds(), 0))
