"""`tidegate`: one command a file."""

import typer

from tidegate_server.cli import serve

app = typer.Typer(
    name="tidegate",
    help="Gathers bursts of chat messages into one batch, and never loses one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)


@app.callback()
def _root() -> None:
    """A command of its own for each task."""


def main() -> None:
    """Run the command line."""
    app()
