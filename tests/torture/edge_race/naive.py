"""The debounce that everybody writes first: RPUSH, and a timer that does LRANGE and then DEL."""

import time

from tests.torture.edge_race.contestant import WINDOW_S, Reply, Stand


class Naive(Stand):
    """A list for each conversation. Whoever puts the first message in sets the timer."""

    name = "naive"

    async def add(self, conversation: str, message: str) -> Reply:
        """Push it; the first one starts the timer."""
        length = await self._call("RPUSH", self._key("list", conversation), message)
        if length > 1:
            return Reply(True)
        self._timers.start(WINDOW_S, lambda: self._flush(conversation))
        return Reply(True, time.time() + WINDOW_S)

    async def _flush(self, conversation: str) -> None:
        key = self._key("list", conversation)
        messages = await self._call("LRANGE", key, 0, -1)
        await self._call("DEL", key)
        if messages:
            self._deliver(conversation, [message.decode() for message in messages])
