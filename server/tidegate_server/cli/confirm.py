"""A question before what cannot be undone."""

import sys

import typer

from tidegate_server.cli.endings import Failure


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error, unless `yes` has answered already.

    Raises:
        Failure: The answer is no, or nobody answers.
    """
    if yes:
        return
    try:
        answer = typer.confirm(question, err=True)
    except typer.Abort:  # the end of standard input, or Ctrl-C
        answer = None
    if answer is None or not sys.stdin.isatty():  # nobody has pressed Enter
        print(file=sys.stderr)
    if answer is None:
        raise Failure("nobody said yes, so nothing was done; --yes says it beforehand")
    if not answer:
        raise Failure("nothing was done")
