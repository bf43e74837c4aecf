"""What a command that stays connected says when its server is away."""

import logging
from collections.abc import Callable

from rich.text import Text

import tidegate
import tidegate.blocking
from tidegate_server.cli import output
from tidegate_server.cli.endings import Failure


def must_answer(gate: tidegate.blocking.Client) -> None:
    """A stream waits for its server as long as it takes; a person wants to know."""
    try:
        gate.server_info()
    except tidegate.PermissionDenied:
        pass  # a subscriber need not be an admin
    except tidegate.DeadlineExceeded as error:
        raise Failure(str(error)) from None


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage())

    def note(self, text: str) -> None:
        output.console(stderr=True).print(Text(f"tidegate: {text}", "yellow"), soft_wrap=True)


def note_them() -> Callable[[str], None]:
    """What the client reports goes to standard error, a line each."""
    notes, log = _Notes(logging.WARNING), logging.getLogger("tidegate")
    log.handlers[:] = [notes]
    log.propagate = False
    return notes.note
