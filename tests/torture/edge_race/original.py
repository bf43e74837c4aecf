"""The replaced system as it was: one JSON document for each conversation, changed in the program.

Where its description leaves something open it is read in its favour: a message that finds no timer
key sets a timer, also if it is not the first of its buffer, and no time passes between the timer
and the processing, which was an HTTP request.
"""

import json
import time
from typing import Any

from tests.torture.edge_race.contestant import WINDOW_S, Reply, Stand, milliseconds

BUFFER_MS, TIMER_MS, PROCESSED_MS = map(milliseconds, (15, 10, 30))

Document = dict[str, Any]


class Original(Stand):
    """GET, append, SETEX; and GET, mark, SETEX when the timer goes off."""

    name = "original"

    async def add(self, conversation: str, message: str) -> Reply:
        """Read the document, append, write it."""
        now_s = time.time()
        document = await self._read(conversation)
        created = document is None or document["processed"]
        if document is None or created:
            document = Document(messages=[], first=now_s, processed=False)
        document["messages"].append(message)
        document["last"] = now_s
        await self._write(conversation, document, BUFFER_MS)
        if created or not await self._call("EXISTS", self._key("timer", conversation)):
            await self._call("PSETEX", self._key("timer", conversation), TIMER_MS, "1")
            self._timers.start(WINDOW_S, lambda: self._process(conversation))
        return Reply(True, document["first"] + WINDOW_S)

    async def _process(self, conversation: str) -> None:
        document = await self._read(conversation)
        if document is None or document["processed"]:
            return
        await self._mark(conversation)
        self._deliver(conversation, document["messages"])

    async def _mark(self, conversation: str) -> None:
        if document := await self._read(conversation):
            await self._write(conversation, document | {"processed": True}, PROCESSED_MS)

    async def _read(self, conversation: str) -> Document | None:
        found = await self._call("GET", self._key("buffer", conversation))
        return json.loads(found) if found else None

    async def _write(self, conversation: str, document: Document, life_ms: int) -> None:
        key = self._key("buffer", conversation)
        await self._call("PSETEX", key, life_ms, json.dumps(document))
