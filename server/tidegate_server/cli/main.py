"""`tidegate`: one file for each command or group of commands."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from tidegate_server.cli import (
    config,
    conversation,
    conversations,
    dead_letters,
    endings,
    erase,
    message,
    send,
    serve,
    stats,
    subscribe,
    tail,
    track,
)
from tidegate_server.cli.demo.command import demo
from tidegate_server.cli.replay.command import replay

app = typer.Typer(name="tidegate", add_completion=False, pretty_exceptions_enable=False)
app.command(rich_help_panel="Try it")(demo)
app.command(rich_help_panel="Try it")(replay)
app.command(rich_help_panel="Server")(serve.serve)
app.add_typer(config.app, name="config", rich_help_panel="Server")
for command in (send.send, message.amend, message.remove, subscribe.subscribe):
    app.command(rich_help_panel="Messages")(command)
for command in (conversation.hold, conversation.flush, conversation.discard):
    app.command(rich_help_panel="Windows")(command)
for command in (
    stats.stats,
    conversations.conversations,
    conversation.status,
    track.track,
    tail.tail,
):
    app.command(rich_help_panel="What goes on")(command)
app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel="Tidying up")
app.command(rich_help_panel="Tidying up")(erase.erase)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tidegate {version('tidegate')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Gathers bursts of chat messages into one batch, and never loses one."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and end the process with the command's exit code."""
    endings.prepare()
    code = endings.exit_code(
        lambda: app(args=arguments, prog_name="tidegate", standalone_mode=False)
    )
    raise SystemExit(code)
