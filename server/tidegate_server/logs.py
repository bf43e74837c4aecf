"""Logs: one event a line with fields, to standard error, also of the libraries.

Payloads, secrets and conversations are never logged: fields of their names are dropped, and so are
the content of every value that is not plain and the text of an exception, which may quote one.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

PRIVATE = frozenset(
    {"authorization", "body", "conversation", "lease_token", "password", "payload", "text", "token"}
)
"""Fields that are dropped wherever they come from."""

_PLAIN = (str, int, float, bool, type(None))
_Raised = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(level: str, fmt: str) -> None:
    """Log from `level` on ("debug", "info", "warning", "error"), as `fmt` says.

    "console" is for people, "json" for programs, "auto" the former if standard error is a terminal.
    May be called again.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_logger,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_private,
    ]
    renderers = _renderers(fmt)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _route_libraries(threshold, shared, renderers)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose events have the field `logger`. It obeys a later `configure`, too."""
    return structlog.get_logger(logger_name=name)  # "logger" is taken by structlog's own signature


def drop_private(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The event without private fields, and with the type's name in the place of any object."""
    return {
        key: value if _is_plain(key, value) else type(value).__name__
        for key, value in event.items()
        if key.lower() not in PRIVATE
    }


def _name_logger(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if name := event.pop("logger_name", None):
        event["logger"] = name
    return event


def _is_plain(key: str, value: object) -> bool:
    # The internals of structlog: the exception, and the record of a library.
    return isinstance(value, _PLAIN) or key == "exc_info" or key.startswith("_")


def _renderers(fmt: str) -> list[Processor]:
    terminal = sys.stderr.isatty()
    if fmt == "console" or (fmt == "auto" and terminal):
        return [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=_write_places)]
    places = structlog.processors.ExceptionRenderer(_places)
    return [places, structlog.processors.JSONRenderer()]


def _write_places(out: TextIO, exc_info: _Raised) -> None:
    out.write("\n" + _places(exc_info))


def _places(exc_info: _Raised) -> str:
    """Where an exception and those that led to it were raised, oldest first, without their texts.

    Only those of the operating system tell theirs.
    """
    return "\n".join(reversed([_place(error) for error in _chain(exc_info[1])]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _place(error: BaseException) -> str:
    where = "".join(traceback.format_tb(error.__traceback__))
    kind = type(error)
    why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    return f"Traceback (most recent call last):\n{where}{kind.__module__}.{kind.__qualname__}{why}"


def _route_libraries(threshold: int, shared: list[Processor], renderers: list[Processor]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Below that, libraries may tell what they carry.
    root.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)
