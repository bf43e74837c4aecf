"""What servers tell each other, over two channels of the store: notices, and events."""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from enum import EnumType
from typing import Any

from redis.exceptions import RedisError

from tidegate_server.core.model import (
    BatchInfo,
    BatchState,
    BufferInfo,
    BufferState,
    Conversation,
    WindowPolicy,
)
from tidegate_server.logs import get_logger
from tidegate_server.store.dial import Dialer
from tidegate_server.store.keys import cid_of, conversation_of
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind

_PAUSE_S = 0.5
_MOST = (1 << 31) - 1
_LATEST_MS = 1 << 53
_SILENCE_S = 10.0
_POLICY = [field.name for field in fields(WindowPolicy)]
_BUFFER = [field.name for field in fields(BufferInfo) if field.name not in ("state", "policy")]
_BATCH = [field.name for field in fields(BatchInfo) if field.name != "conversation"]
_EVENT = ["at_ms", "message_id", "batch_id", "next_attempt_at_ms", "dropped"]

_log = get_logger("tidegate.store")


class Channel:
    """Gives `hear` the rows of each message that others publish, as long as it runs.

    A lost connection is made anew; what is published meanwhile is lost.
    """

    def __init__(
        self,
        dialer: Dialer,
        name: str,
        hear: Callable[[list[Any]], None],
    ):
        self._dialer = dialer
        self._name = name
        self._hear = hear
        self._sender = secrets.token_hex(4)
        self._task: asyncio.Task[None] | None = None

    def pack(self, rows: Iterable[object]) -> bytes:
        """One message of the channel."""
        return json.dumps([self._sender, [*rows]], ensure_ascii=False).encode()

    def start(self) -> None:
        """Begin to listen, unless it does."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"store {self._name}")

    def end(self) -> asyncio.Task[None] | None:
        """Listen no more. Returns the task that is about to end."""
        task, self._task = self._task, None
        if task:
            task.cancel()
        return task

    async def stop(self) -> None:
        """Listen no more, and wait for the end."""
        if task := self.end():
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                await self._listen()
            await asyncio.sleep(_PAUSE_S)

    async def _listen(self) -> None:
        connection = await self._dialer.open()
        try:
            await connection.send_command("SUBSCRIBE", self._name)
            asked = False
            while True:
                heard: Any = await connection.read_response(
                    disable_decoding=True, timeout=_SILENCE_S
                )
                if heard is not None:
                    asked = False
                    if heard[0] == b"message":
                        self._take(heard[2])
                elif asked:
                    raise TimeoutError("the other end is gone without a word")
                else:
                    asked = True
                    await connection.send_command("PING")
        finally:
            await connection.disconnect(nowait=True)

    def _take(self, body: bytes) -> None:
        try:
            sender, rows = json.loads(body)
            if sender != self._sender:
                self._hear(rows)
        except (ValueError, TypeError, RecursionError):
            _log.warning("a notice cannot be read; another version may share the store")
        except Exception:
            _log.exception("a notice could not be obeyed")


def notice_row(notice: Notice) -> list[object]:
    """A notice as JSON has it."""
    cid = cid_of(notice.conversation)
    return [notice.kind, cid, notice.batch_id, notice.at_ms, notice.mark]


def notice_of(row: Sequence[Any]) -> Notice:
    """The notice of a row. ValueError or TypeError: it is none."""
    kind, cid, batch_id, at_ms, mark = row
    return Notice(
        NoticeKind(kind),
        conversation_of(_text(cid)),
        _text(batch_id),
        _proper("at_ms", int, at_ms),
        _text(mark),
    )


def event_row(event: LiveEvent) -> list[object]:
    """An event as JSON has it."""
    buffer = batch = None
    if info := event.buffer:
        policy = [getattr(info.policy, name) for name in _POLICY]
        buffer = [info.state, policy, *(getattr(info, name) for name in _BUFFER)]
    if event.batch:
        batch = [getattr(event.batch, name) for name in _BATCH]
    plain = (getattr(event, name) for name in _EVENT)
    return [event.kind, cid_of(event.conversation), event.state, buffer, batch, *plain]


def event_of(row: Sequence[Any]) -> LiveEvent:
    """The event of a row. ValueError or TypeError: it is none."""
    kind, cid, state, buffer, batch, *plain = row
    conversation = conversation_of(_text(cid))
    return LiveEvent(
        EventKind(kind),
        conversation,
        state=None if state is None else BatchState(state),
        buffer=None if buffer is None else _buffer(buffer),
        batch=None if batch is None else _batch(batch, conversation),
        **_named(LiveEvent, _EVENT, plain),
    )


def _buffer(row: Sequence[Any]) -> BufferInfo:
    state, policy, *plain = row
    return BufferInfo(
        BufferState(state),
        policy=WindowPolicy(**_named(WindowPolicy, _POLICY, policy)),
        **_named(BufferInfo, _BUFFER, plain),
    )


def _batch(row: Sequence[Any], conversation: Conversation) -> BatchInfo:
    return BatchInfo(conversation=conversation, **_named(BatchInfo, _BATCH, row))


def _named(owner: type[Any], names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """The row as the owner's fields. ValueError or TypeError: one is not of the field's type."""
    kinds = {field.name: field.type for field in fields(owner)}
    pairs = zip(names, row, strict=True)
    return {name: _proper(name, kinds[name], value) for name, value in pairs}


def _proper(name: str, kind: Any, value: Any) -> Any:
    """The value of a field, of its type, and no larger than the wire can tell it."""
    if isinstance(kind, EnumType):
        return kind(value)
    if kind is str:
        return _text(value)
    if value is None and kind is not int:
        return None
    most = _LATEST_MS if name.endswith(("_ms", "_sequence")) else _MOST
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is out of range")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # JSON can say what no text may hold
    return value
