"""`tidegate dead-letters`: batches that were given up."""

from typing import Annotated, Any

import typer

import tidegate
from tidegate_server.cli import options, output
from tidegate_server.cli.conversation import batch_facts, last_error

app = typer.Typer(cls=options.group("list"), help="Look at batches that were given up.")


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
            last_error(info),
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
    console.print(output.cell(title, "bold"), batch_facts(details.info), sep="\n")
    console.print("", _attempts(details), "", _messages(details), sep="\n")


def _attempts(details: tidegate.BatchDetails) -> Any:
    table = output.table("attempt", "by", "to", "began", "ended", "result", right=["attempt"])
    for attempt in details.attempts:
        result = ": ".join(filter(None, (attempt.error_reason, attempt.error_message)))
        table.add_row(
            str(attempt.number),
            output.word(attempt.channel),
            output.cell(attempt.subscriber_id),
            output.clock(attempt.started_at),
            output.clock(attempt.ended_at),
            output.cell(result or ("ok" if attempt.ended_at else "under way")),
        )
    return table


def _messages(details: tidegate.BatchDetails) -> Any:
    table = output.table("arrived", "message", "id")
    for message in details.messages:
        table.add_row(
            output.clock(message.received_at), shown(message), output.cell(message.id, "dim")
        )
    return table


def shown(message: tidegate.Message) -> Any:
    """The payload as far as a terminal can show it."""
    if isinstance(message.payload, bytes):
        return output.cell(f"({len(message.payload):,} bytes of {message.content_type})", "dim")
    return output.cell(message.payload)
