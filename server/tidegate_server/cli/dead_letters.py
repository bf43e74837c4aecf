"""`tidegate dead-letters`: batches that were given up."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

import tidegate
from tidegate_server.cli import facts, options, output
from tidegate_server.cli.confirm import confirm

app = typer.Typer(
    cls=options.group("list"), help="Look at batches that were given up; requeue or delete them."
)

BatchIds = Annotated[list[str], typer.Argument(metavar="BATCH_ID...", help="As `list` shows them.")]
_MOST = 100  # of one call


@app.command("list")
def list_them(
    *,
    instance: options.OnlyInstance = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """List them, newest first."""
    with options.connect(server, token) as gate:
        letters = gate.dead_letters(instance)
        if as_json:
            for info in letters:
                output.print_json(info)
            return
        found = list(letters)
    if not found:
        output.console().print("no dead letters")
        return
    right = ("messages", "attempts")
    table = output.table("batch", "instance", "conversation", *right, "since", "why", right=right)
    for info in found:
        table.add_row(
            info.batch_id,
            output.cell(info.instance),
            output.cell(info.conversation),
            f"{info.message_count:,}",
            str(info.attempt),
            output.clock(info.settled_at),
            facts.last_error(info),
        )
    output.console().print(table)


@app.command()
def show(
    batch_id: Annotated[str, typer.Argument(help="As `list` shows it.")],
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Show one with its messages and attempts."""
    with options.connect(server, token) as gate:
        details = gate.batch(batch_id)
    if as_json:
        output.print_json(details)
        return
    console = output.console()
    title = f"{details.info.conversation} of {details.info.instance}"
    console.print(output.cell(title, "bold"), facts.batch_facts(details.info), sep="\n")
    console.print("", _attempts(details), "", _messages(details), sep="\n")


@app.command()
def requeue(
    batch_ids: BatchIds,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Put their messages back in the buffer, due at once."""
    with options.connect(server, token) as gate:
        done = _for_all(batch_ids, gate.requeue)
    _say(done, "is delivered anew", as_json=as_json)


@app.command()
def delete(
    batch_ids: BatchIds,
    *,
    yes: options.Yes = False,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Delete them for good, with their messages."""
    with options.connect(server, token) as gate:
        confirm(f"Delete {output.count(len(batch_ids), 'dead letter')} for good?", yes=yes)
        done = _for_all(batch_ids, gate.delete_dead_letters)
    _say(done, "is deleted", as_json=as_json)


def _for_all(batch_ids: list[str], call: Callable[..., Mapping[str, bool]]) -> dict[str, bool]:
    done: dict[str, bool] = {}
    for begin in range(0, len(batch_ids), _MOST):
        done |= call(*batch_ids[begin : begin + _MOST])
    return done


def _say(done: Mapping[str, bool], what: str, *, as_json: bool) -> None:
    for batch_id, applied in done.items():
        if as_json:
            output.print_json({"batch_id": batch_id, "applied": applied})
        elif applied:
            output.console().print(f"✓ {output.printable(batch_id)} {what}")
        else:
            name = output.printable(batch_id)
            output.console().print(f"= {name} is no dead letter, or no longer; nothing changed")


def _attempts(details: tidegate.BatchDetails) -> Any:
    table = output.table("attempt", "by", "to", "began", "ended", "result", right=["attempt"])
    for attempt in details.attempts:
        result = facts.why(attempt.error_reason, attempt.error_message)
        table.add_row(
            str(attempt.number),
            output.word(attempt.channel),
            output.cell(attempt.subscriber_id),
            output.clock(attempt.started_at),
            output.clock(attempt.ended_at),
            result or ("ok" if attempt.ended_at else "under way"),
        )
    return table


def _messages(details: tidegate.BatchDetails) -> Any:
    table = output.table("arrived", "message", "id")
    for message in details.messages:
        table.add_row(
            output.clock(message.received_at), facts.shown(message), output.cell(message.id, "dim")
        )
    return table
