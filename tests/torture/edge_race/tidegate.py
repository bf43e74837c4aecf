"""Tidegate itself, by its own client. What it hands on goes to a subscriber, not to the writers."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from tests.torture.edge_race.contestant import WINDOW_S, Deliver, Reply
from tidegate import Added, AddOutcome, Client, DeadlineExceeded, Unavailable, WindowPolicy

INSTANCE = "edge"
MOST = 500
POLICY = WindowPolicy(delay=timedelta(seconds=WINDOW_S), grace=timedelta(0), max_messages=MOST)
"""Without a grace, which would keep most messages away from the edge."""


@dataclass(slots=True)
class _Life:
    client: Client
    adding: int = 0
    over: bool = False


class Tidegate:
    """A writer with a connection of its own."""

    def __init__(self, target: str):
        self._target = target
        self._life = _Life(Client(target))
        self._farewells: set[asyncio.Task[None]] = set()

    def deliver(self, callback: Deliver) -> None:
        """Nothing is handed on by a writer."""

    async def add(self, conversation: str, message: str) -> Reply:
        """Add it over the connection that the present life has."""
        life = self._life
        life.adding += 1
        try:
            added = await _until_known(life.client, conversation, message)
        finally:
            life.adding -= 1
            self._close_if_over(life)
        due_s = added.buffer.flush_at.timestamp() if added.buffer else None
        new = added.outcome is AddOutcome.BUFFERED
        return Reply(not added.fallback_to_immediate, due_s, added.sequence, new)

    def end_life(self) -> None:
        """Go on with another connection; the old one ends after its answers."""
        old, self._life = self._life, _Life(Client(self._target))
        old.over = True
        self._close_if_over(old)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*self._farewells, self._life.client.close())

    def _close_if_over(self, life: _Life) -> None:
        if life.over and not life.adding:
            task = asyncio.create_task(life.client.close())
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)


async def _until_known(client: Client, conversation: str, message: str) -> Added:
    """Add it as often as it takes to know what became of it, as a producer should."""
    while True:
        try:
            return await client.add(
                INSTANCE, conversation, message, message_id=message, policy=POLICY
            )
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(0.02)
