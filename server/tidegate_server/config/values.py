"""How settings are written: durations, sizes, numbers, words and paths.

Each function here that returns a validator takes what a person or a program may have written, a
string or the value itself. It raises `ValueError` with the end of the sentence "it must be ...".
"""

import re
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import cast

from pydantic import BeforeValidator, SecretStr

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
)
_ISO_DURATION = re.compile(
    rf"P(?=[0-9T])(?:{_NUMBER}D)?(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SIZE = re.compile(rf"{_NUMBER}(B|KiB|MiB)?", re.IGNORECASE)
_UNITS_BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20}
_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

HIDDEN = "********"
"""Shown in the place of a secret."""


class Misfits(ValueError):
    """Settings that are right one by one and do not fit together: where, and what each must be."""

    def __init__(self, items: list[tuple[tuple[str, ...], str]]):
        super().__init__("; ".join(f"{'.'.join(at)} must be {rule}" for at, rule in items))
        self.items = items


def milliseconds(value: timedelta) -> int:
    """The duration in whole milliseconds."""
    return value // timedelta(milliseconds=1)


def duration(low: str, high: str) -> BeforeValidator:
    """A `timedelta` from `low` to `high`: "8s", "1h30m", "PT8S", or a plain number of seconds."""
    low_ms, high_ms = _duration_ms(low) or 0, _duration_ms(high) or 0
    rule = f'a duration from {low} to {high}, such as "8s", "500ms" or "1h30m"'

    def parse(value: object) -> timedelta:
        found = _duration_ms(value)
        if found is None or not low_ms <= found <= high_ms:
            raise ValueError(rule)
        return timedelta(milliseconds=round(found))

    return BeforeValidator(parse)


def _duration_ms(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * 1_000
    if not isinstance(value, str) or not value:
        return None
    if re.fullmatch(_NUMBER, value):
        return float(value) * 1_000
    units = tuple(_UNITS_MS.values())
    found = _DURATION.fullmatch(value) or _ISO_DURATION.fullmatch(value)
    if found is None:
        return None
    return sum(float(n) * unit for n, unit in zip(found.groups(), units, strict=False) if n)


def format_duration(value: timedelta) -> str:
    """The duration as one writes it: "1h30m", "500ms", "0s"."""
    rest, text = milliseconds(value), ""
    for unit, length in _UNITS_MS.items():
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def size(low: int, high: int) -> BeforeValidator:
    """A number of bytes from `low` to `high`: "256KiB", "1MiB", or a plain number."""
    rule = f'a size from {format_size(low)} to {format_size(high)}, such as "256KiB" or 65536'

    def parse(value: object) -> int:
        found = _SIZE.fullmatch(str(value)) if _is_written(value) else None
        if found is None:
            raise ValueError(rule)
        count = float(found[1]) * _UNITS_BYTES[(found[2] or "").lower()]
        if not low <= count <= high or count != int(count):
            raise ValueError(rule)
        return int(count)

    return BeforeValidator(parse)


def format_size(value: int) -> str:
    """The size as one writes it: "256KiB", "1000B"."""
    for unit, length in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value and value % length == 0:
            return f"{value // length}{unit}"
    return f"{value}B"


def number(low: int, high: int) -> BeforeValidator:
    """A whole number from `low` to `high`."""

    def parse(value: object) -> int:
        written = str(value) if _is_written(value) else ""
        if not re.fullmatch("[0-9]{1,18}", written) or not low <= int(written) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(written)

    return BeforeValidator(parse)


def _is_written(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _parse_flag(value: object) -> bool:
    flag = _FLAGS.get(str(value).lower())
    if flag is None:
        raise ValueError("true or false")
    return flag


FLAG = BeforeValidator(_parse_flag)
"""A bool: true, yes, on or 1, and their opposites, in any case."""


def choice(*allowed: str, optional: bool = False) -> BeforeValidator:
    """One of the words, in any case; with `optional` also nothing, which is None."""

    def parse(value: object) -> str | None:
        if optional and value in (None, ""):
            return None
        if str(value).lower() not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(value).lower()

    return BeforeValidator(parse)


def matching(pattern: str, rule: str) -> BeforeValidator:
    """Text that matches `pattern` as a whole; `rule` says in words what that means."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(rule)
        return value

    return BeforeValidator(parse)


def _parse_optional(value: object) -> object:
    return None if value == "" else value


OPTIONAL = BeforeValidator(_parse_optional)
"""A value that is None if nothing was written."""


def _parse_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a path, written out: that home directory is not known") from None


def _parse_file(value: object) -> Path | None:
    if value in (None, ""):
        return None
    found = _parse_path(value)
    try:
        exists = found.is_file()
    except OSError:  # such as a name that is too long for any file
        exists = False
    if not exists:
        raise ValueError("the path of a file that exists")
    return found


PATH = BeforeValidator(_parse_path)
"""An absolute path; "~" is the home directory."""

FILE = BeforeValidator(_parse_file)
"""The path of a file that exists; nothing written is None."""


def show(value: object) -> str:
    """A setting's value as one may write it; a secret is hidden, and nothing is "unset"."""
    match value:
        case None | "":
            return "unset"
        case bool() | Enum():
            return str(getattr(value, "name", value)).lower()
        case timedelta():
            return format_duration(value)
        case SecretStr():
            return HIDDEN
        case tuple():
            return ",".join(str(item) for item in cast(tuple[object, ...], value)) or "off"
        case _:
            return str(value)
