"""`tidegate`: one file for each command or group of commands."""

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate_server.cli import endings, options

COMMANDS = {
    "demo": ("demo.command", "Try it"),
    "replay": ("replay.command", "Try it"),
    "serve": ("serve", "Server"),
    "config": ("config", "Server"),
    "token": ("token", "Server"),
    "send": ("send", "Messages"),
    "amend": ("message", "Messages"),
    "remove": ("message", "Messages"),
    "subscribe": ("subscribe", "Messages"),
    "hold": ("conversation", "Windows"),
    "flush": ("conversation", "Windows"),
    "discard": ("conversation", "Windows"),
    "stats": ("stats", "What goes on"),
    "conversations": ("conversations", "What goes on"),
    "status": ("conversation", "What goes on"),
    "track": ("track", "What goes on"),
    "tail": ("tail", "What goes on"),
    "dead-letters": ("dead_letters", "Tidying up"),
    "erase": ("erase", "Tidying up"),
}
"""Each command's module, which has a function of its name or a group called `app`, and its panel
of the help."""


def build(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands; the others' modules are not imported."""
    line = typer.Typer(name="tidegate", add_completion=False, pretty_exceptions_enable=False)
    line.callback(invoke_without_command=True)(_root)
    for name in names:
        place, panel = COMMANDS[name]
        module = import_module(f"tidegate_server.cli.{place}")
        if hasattr(module, name):
            line.command(name, rich_help_panel=panel)(getattr(module, name))
        else:
            line.add_typer(module.app, name=name, rich_help_panel=panel)
    return line


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tidegate {version('tidegate')}")
        raise typer.Exit


def _file(name: str, text: str) -> Any:
    variable = f"TIDEGATE_{name.upper().replace('-', '_')}"
    return typer.Option(f"--{name}", envvar=variable, metavar="FILE", help=text)


def _root(
    context: typer.Context,
    *,
    ca_file: Annotated[
        Path | None, _file("ca-file", "What may sign the server's certificate; then TLS is used.")
    ] = None,
    cert_file: Annotated[Path | None, _file("cert-file", "This client's certificate.")] = None,
    key_file: Annotated[Path | None, _file("key-file", "The key of that.")] = None,
    token_file: Annotated[Path | None, _file("token-file", "Holds the token for --token.")] = None,
    insecure_token: Annotated[
        bool,
        typer.Option(
            "--insecure-token",
            envvar="TIDEGATE_INSECURE_TOKEN",
            help="Send a token to another machine without TLS.",
        ),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Gathers bursts of chat messages into one batch, and never loses one."""
    options.security = options.Security(ca_file, cert_file, key_file, token_file, insecure_token)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and end the process with the command's exit code."""
    endings.prepare()
    words = sys.argv[1:] if arguments is None else arguments
    # A server that runs for months has no use for the modules of the demo.
    app = build(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    code = endings.exit_code(
        lambda: app(args=arguments, prog_name="tidegate", standalone_mode=False)
    )
    raise SystemExit(code)
