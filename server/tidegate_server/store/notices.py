"""What servers tell each other, over one channel of the store."""

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from tidegate_server.logs import get_logger
from tidegate_server.store.base import Notice, NoticeKind
from tidegate_server.store.keys import cid_of, conversation_of

_PAUSE_S = 0.5

_log = get_logger("tidegate.store")


class Notices:
    """Listens on the channel as long as it runs; a lost connection is made anew."""

    def __init__(self, connect: Callable[[], AbstractConnection], channel: str):
        self.handlers: list[Callable[[Notice], None]] = []
        self._connection = connect()
        self._channel = channel
        self._sender = secrets.token_hex(4)
        self._task: asyncio.Task[None] | None = None

    def pack(self, notices: Sequence[Notice]) -> bytes:
        """One message of the channel."""
        rows = [[n.kind, cid_of(n.conversation), n.batch_id, n.at_ms] for n in notices]
        return json.dumps([self._sender, rows], ensure_ascii=False).encode()

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="store notices")

    async def stop(self) -> None:
        """End it."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._connection.disconnect(nowait=True)

    async def _run(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                await self._connection.connect()
                await self._connection.send_command("SUBSCRIBE", self._channel)
                while True:
                    heard: Any = await self._connection.read_response(disable_decoding=True)
                    if heard[0] == b"message":
                        self._hear(heard[2])
            await self._connection.disconnect(nowait=True)
            await asyncio.sleep(_PAUSE_S)

    def _hear(self, body: bytes) -> None:
        try:
            sender, rows = json.loads(body)
            notices = [
                Notice(NoticeKind(kind), conversation_of(cid), batch_id, at_ms)
                for kind, cid, batch_id, at_ms in rows
            ]
        except (ValueError, TypeError):
            _log.warning("a notice cannot be read; another version may share the store")
            return
        if sender == self._sender:
            return
        for notice in notices:
            for handler in self.handlers:
                handler(notice)
