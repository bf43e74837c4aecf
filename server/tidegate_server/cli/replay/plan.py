"""From a trace to who sends what when. Pure, but for the reading of the file."""

import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidegate_server.cli.endings import Failure
from tidegate_server.cli.verdict import Sent
from tidegate_server.core.model import Conversation, WindowPolicy

SHORTEST_DELAY_MS = 50
"""Windows are not scaled below this: what a machine is late by would decide about them."""


@dataclass(frozen=True, slots=True)
class TraceMessage:
    """A message as somebody once wrote it, `at_s` seconds after the begin of the trace."""

    at_s: float
    conversation: Conversation
    message: Sent


@dataclass(frozen=True, slots=True)
class Session:
    """Messages without a long gap between them. `offsets_s` count from the first, in real time."""

    conversation: Conversation
    messages: tuple[Sent, ...]
    offsets_s: tuple[float, ...]


def read(path: Path) -> list[TraceMessage]:
    """The messages of a trace, in order of time.

    Each line is a JSON object with t (seconds), instance, conversation, message_id and text.

    Raises:
        Failure: It cannot be read, or a line is not what it has to be.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            found = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise Failure(f"{path} is no trace: {error}") from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror or error}") from None
    if not found:
        raise Failure(f"{path} holds no messages")
    _refuse_repeated(found, path)
    return sorted(found, key=lambda message: message.at_s)


def _parse(line: str, where: str) -> TraceMessage:
    try:
        values: Any = json.loads(line)
        words = [values[key] for key in ("instance", "conversation", "message_id", "text")]
        at_s = values["t"]
    except (ValueError, TypeError, LookupError):
        words, at_s = [], None
    if not words or not all(isinstance(word, str) and word for word in words):
        raise Failure(
            f"{where}: it must be a JSON object with t, instance, conversation, message_id and text"
        )
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not math.isfinite(at_s):
        raise Failure(f"{where}: t must be a number of seconds")
    instance, name, message_id, text = words
    return TraceMessage(at_s, Conversation(instance, name), Sent(message_id, text))


def _refuse_repeated(messages: Iterable[TraceMessage], path: Path) -> None:
    seen: set[tuple[Conversation, str]] = set()
    for item in messages:
        key = item.conversation, item.message.id
        if key in seen:
            raise Failure(
                f"{path}: {item.conversation.name} has two messages with the id {item.message.id}, "
                "of which a server takes only the first"
            )
        seen.add(key)


def plan(
    messages: Sequence[TraceMessage],
    *,
    speed: float,
    session_gap_s: float,
    max_gap_s: float,
    run: str,
) -> list[Session]:
    """The sessions, the longest first, each a conversation of its own named after `run`.

    A gap longer than `session_gap_s` ends a session. The gaps inside are cut to `max_gap_s`, then
    divided by `speed`.
    """
    rows: defaultdict[Conversation, list[TraceMessage]] = defaultdict(list)
    for item in messages:
        rows[item.conversation].append(item)
    sessions = [
        _session(part, number, speed=speed, max_gap_s=max_gap_s, run=run)
        for row in rows.values()
        for number, part in enumerate(_split(row, session_gap_s), 1)
    ]
    return sorted(sessions, key=lambda session: -session.offsets_s[-1])


def _split(row: Sequence[TraceMessage], session_gap_s: float) -> list[list[TraceMessage]]:
    parts = [[row[0]]]
    for item in row[1:]:
        if item.at_s - parts[-1][-1].at_s > session_gap_s:
            parts.append([])
        parts[-1].append(item)
    return parts


def _session(
    part: Sequence[TraceMessage], number: int, *, speed: float, max_gap_s: float, run: str
) -> Session:
    offsets_s, before_s = [0.0], part[0].at_s
    for item in part[1:]:
        offsets_s.append(offsets_s[-1] + min(item.at_s - before_s, max_gap_s) / speed)
        before_s = item.at_s
    old = part[0].conversation
    return Session(
        replace(old, name=f"{old.name}#{number}.{run}"),
        tuple(item.message for item in part),
        tuple(offsets_s),
    )


def scale(policy: WindowPolicy, speed: float) -> WindowPolicy:
    """The policy for traffic that is `speed` times as fast; all its times shrink alike."""
    if policy.delay_ms > SHORTEST_DELAY_MS:
        speed = min(speed, policy.delay_ms / SHORTEST_DELAY_MS)
    else:
        speed = min(speed, 1)
    delay_ms = round(policy.delay_ms / speed)
    return replace(
        policy,
        delay_ms=delay_ms,
        grace_ms=min(round(policy.grace_ms / speed), delay_ms),
        max_wait_ms=max(round(policy.max_wait_ms / speed), delay_ms),
    )
