"""Has replicas confirm what a connection wrote, and knows when they did not."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

_DAY_MS = 86_400_000
_pack = cast("Callable[[tuple[str | int, ...]], bytes]", hiredis.pack_command)


class Witness:
    """Asks, behind a group of commands, whether `replicas` replicas have them.

    WAIT asks about the connection's last write, and a group may turn out to have written nothing:
    some versions then say yes at once, however little the replicas have. So a write goes before
    it that always is one, a new life time for the key `beat`. A full store allows it.
    """

    def __init__(self, beat: str, replicas: int):
        self._beat = beat
        self.replicas = replicas

    async def begin(self, connection: AbstractConnection) -> None:
        """Make the key on a new connection. Where that is refused, `confirmed` will tell."""
        await connection.send_command("SET", self._beat, "1", "PX", _DAY_MS)
        with suppress(ResponseError):
            await connection.read_response()

    def question(self, within_s: float) -> bytes:
        """What goes out behind the group. The answer comes within `within_s` seconds."""
        wait_ms = max(1, int(within_s * 1_000))
        write = _pack(("PEXPIRE", self._beat, _DAY_MS))
        return write + _pack(("WAIT", self.replicas, wait_ms))

    async def confirmed(self, connection: AbstractConnection) -> bool | None:
        """Whether they have it. None: the connection cannot be used to ask."""
        written = await _reply(connection)
        count = await _reply(connection)
        if written != 1 or count is None:
            return None
        return count >= self.replicas


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except ResponseError:
        return None
