"""`tidegate subscribe`."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

import tidegate
import tidegate.blocking
from tidegate_server.cli import facts, options, output, troubles


class Nack(StrEnum):
    """What is to happen to batches that are not acknowledged."""

    RETRY = "retry"
    RELEASE = "release"
    REBUFFER = "rebuffer"
    DEAD_LETTER = "dead-letter"


def subscribe(
    instances: Annotated[
        list[str] | None, typer.Argument(help="Of these instances; of all if none is named.")
    ] = None,
    *,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many batches.")] = None,
    nack: Annotated[
        Nack | None, typer.Option(help="Give each batch back instead of acknowledging it.")
    ] = None,
    max_in_flight: Annotated[
        int, typer.Option(min=1, max=1000, help="Most unsettled batches at a time.")
    ] = 8,
    lease: Annotated[
        timedelta | None, options.duration_option("How long a batch may take. Default 30s.")
    ] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Print batches as they come, and acknowledge them."""
    note = troubles.note_them()
    with options.connect(server, token) as gate:
        troubles.must_answer(gate)
        subscription = gate.subscribe(
            *(instances or ()),
            max_in_flight=min(max_in_flight, count or max_in_flight),
            lease=lease or timedelta(seconds=30),
        )
        with subscription:
            for batch in _first(subscription, count):
                _show(batch, as_json=as_json)
                try:
                    _settle(batch, nack)
                except (tidegate.LeaseLost, tidegate.NotFound) as error:
                    note(f"batch {batch.id}: {error}")


def _first(
    batches: Iterable[tidegate.blocking.Batch], count: int | None
) -> Iterator[tidegate.blocking.Batch]:
    """The first `count` batches, without asking for one more."""
    for number, batch in enumerate(batches, 1):
        yield batch
        if number == count:
            return


def _settle(batch: tidegate.blocking.Batch, nack: Nack | None) -> None:
    if nack is None:
        batch.ack()
    else:
        batch.nack(tidegate.NackAction[nack.name], reason="asked for on the command line")


def _show(batch: tidegate.blocking.Batch, *, as_json: bool) -> None:
    if as_json:
        output.print_json({**output.plain(batch.info), "messages": batch.messages})
        return
    console, info = output.console(), batch.info
    console.print(_title(batch))
    for message in batch.messages:
        time = Text(f"  {output.clock(message.received_at)}  ", "dim")
        first, *more = facts.shown(message).split("\n") or [Text()]
        console.print(time, first, sep="", soft_wrap=True)
        for line in more:
            console.print(" " * len(time), line, sep="", soft_wrap=True)
    late = info.sealed_at - info.due_at
    after = output.seconds(info.due_at - info.opened_at)
    foot = f"  closed after {after} ({output.word(info.flush_reason)}), handed out "
    console.print(Text(f"{foot}{output.seconds(late)} later · {info.batch_id}\n", "dim"))


def _title(batch: tidegate.blocking.Batch) -> Text:
    title = output.cell(batch.conversation, "bold cyan")
    title.append_text(output.cell(f" of {batch.instance}"))
    title.append(f" · {output.count(len(batch.messages), 'message')}")
    if batch.attempt > 1:
        title.append(f" · attempt {batch.attempt}", "yellow")
    return title
