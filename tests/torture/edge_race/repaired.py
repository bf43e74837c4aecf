"""The replaced system after its planned repair: a lock, a grace, and two scripts.

The plan has one script that adds and one that gets and marks, both of which decode and encode the
whole document; a lock of 2 s while a buffer is processed; a message that comes 7.5 to 8.5 s after
the first one waits for 500 ms and looks again; longer life times, of 60, 30 and 300 s. The timer
stays in the process. Its three retries are left out: no delivery fails here.
"""

import asyncio
import json
import time

from tests.torture.edge_race.contestant import SCALE, WINDOW_S, Reply, Stand, milliseconds

BUFFER_MS, TIMER_MS, PROCESSED_MS = map(milliseconds, (60, 30, 300))
LOCK_MS = milliseconds(2)
EDGE_S = (7.5 * SCALE, 8.5 * SCALE)
PAUSE_S = 0.5 * SCALE

_ADD = """
local found = redis.call('GET', KEYS[1])
local document = found and cjson.decode(found)
local created = 0
if not document or document.processed then
  document, created = {messages = {}, first = ARGV[2], processed = false}, 1
end
table.insert(document.messages, ARGV[1])
document.last = ARGV[2]
redis.call('SET', KEYS[1], cjson.encode(document), 'PX', ARGV[3])
return {created, document.first}
"""

_GET_AND_MARK = """
local found = redis.call('GET', KEYS[1])
local document = found and cjson.decode(found)
if not document or document.processed then return {} end
document.processed = true
redis.call('SET', KEYS[1], cjson.encode(document), 'PX', ARGV[1])
return document.messages
"""


class Repaired(Stand):
    """Scripts change the document; the timer is still in the process."""

    name = "repaired"

    async def add(self, conversation: str, message: str) -> Reply:
        """Wait at the window's edge, then have the script add."""
        await self._wait_at_the_edge(conversation)
        key = self._key("buffer", conversation)
        created, first = await self._call("EVAL", _ADD, 1, key, message, time.time_ns(), BUFFER_MS)
        if created:
            await self._call("PSETEX", self._key("timer", conversation), TIMER_MS, "1")
            self._timers.start(WINDOW_S, lambda: self._process(conversation))
        return Reply(True, int(first) / 1e9 + WINDOW_S)

    async def _wait_at_the_edge(self, conversation: str) -> None:
        found = await self._call("GET", self._key("buffer", conversation))
        document = json.loads(found) if found else None
        if document is None or document["processed"]:
            return
        if EDGE_S[0] <= time.time() - int(document["first"]) / 1e9 <= EDGE_S[1]:
            await asyncio.sleep(PAUSE_S)

    async def _process(self, conversation: str) -> None:
        lock = self._key("lock", conversation)
        if not await self._call("SET", lock, "1", "NX", "PX", LOCK_MS):
            return
        try:
            key = self._key("buffer", conversation)
            messages = await self._call("EVAL", _GET_AND_MARK, 1, key, PROCESSED_MS)
            if messages:
                self._deliver(conversation, [message.decode() for message in messages])
        finally:
            await self._call("DEL", lock)
