"""What commands print: for people on a terminal, plain when piped, JSON for programs."""

import base64
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Control characters, and those that turn the direction of text.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

PIPED_WIDTH = 1000
"""Columns when piped: a program cuts lines itself, if it wants them cut."""


def console(*, stderr: bool = False) -> Console:
    """Colour only on a terminal, and none with NO_COLOR. Nothing in a text is taken for markup."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def print_json(value: object) -> None:
    """One line, at once, that loses nothing whatever the encoding."""
    unicode = sys.stdout.encoding.lower().startswith("utf")
    print(json.dumps(plain(value), ensure_ascii=not unicode), flush=True)


def plain(value: object) -> Any:
    """A model as JSON: times are ISO 8601, durations seconds, enums words, bytes base64."""
    match value:
        case Enum():
            return word(value)
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            pairs = cast("Mapping[str, object]", value).items()
            return {key: plain(item) for key, item in pairs}
        case list() | tuple():
            return [plain(item) for item in cast("Sequence[object]", value)]
        case _ if is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table. The columns of `right` hold numbers."""
    made = Table(
        box=None,
        header_style="dim",
        padding=(0, 2),
        collapse_padding=True,
        pad_edge=False,
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def facts() -> Table:
    """A table without heads, of a name and a value a line, set in by two."""
    made = Table.grid(padding=(0, 2))
    made.add_column(width=0)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def printable(text: str) -> str:
    """The text without what would steer the terminal; line breaks stay."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def cell(text: str, style: str = "") -> Text:
    """Text that somebody else wrote."""
    return Text(printable(text), style)


def word(value: Enum) -> str:
    """The name of an enum's member, as people write it."""
    return value.name.lower().replace("_", "-")


def seconds(length: timedelta | float) -> str:
    """A short length of time: "1.50 s", "12 ms"."""
    value = length.total_seconds() if isinstance(length, timedelta) else length
    if abs(value) < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if abs(value) < 100 else f"{value:.0f} s"


def clock(at: datetime | None) -> str:
    """A time of today, here: "16:04:03.120"; of another day with its date."""
    if at is None:
        return ""
    here = at.astimezone()
    day = "" if here.date() == datetime.now().astimezone().date() else f"{here:%Y-%m-%d} "
    return f"{day}{here:%H:%M:%S}.{here.microsecond // 1000:03}"


def count(number: int, thing: str) -> str:
    """A number of things: "1 message", "3 messages", "2 batches"."""
    plural = f"{thing}es" if thing.endswith("ch") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"
