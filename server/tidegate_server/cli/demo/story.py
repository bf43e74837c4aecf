"""Who does what to whom: a person who writes, and a bot that answers. All of it is for real."""

import asyncio
from datetime import timedelta

import tidegate
from tidegate_server.cli.demo.stage import Stage
from tidegate_server.cli.endings import Failure
from tidegate_server.cli.replay.play import observed, to_client
from tidegate_server.cli.verdict import Delivery
from tidegate_server.core.model import Conversation, WindowPolicy

POLICY = WindowPolicy(delay_ms=1_000, grace_ms=200)
PERSON = Conversation("cafe", "a person")
PATIENCE_S = 5.0


class Story:
    """Each step shows itself on the stage. `deliveries` and `answered` are what it came to."""

    def __init__(
        self, stage: Stage, gate: tidegate.Client, subscription: tidegate.Subscription
    ) -> None:
        self._stage = stage
        self._gate = gate
        self._subscription = subscription
        self.deliveries: list[Delivery] = []
        self.answered: list[Delivery] = []

    async def write(self, text: str, *, after_s: float = 0) -> None:
        """The person writes, some seconds after what was before. The text is the id as well."""
        await asyncio.sleep(after_s)
        added = await self._gate.add(
            PERSON.instance, PERSON.name, text, message_id=text, policy=to_client(POLICY)
        )
        self._show(text, added.buffer)

    async def edit(self, text: str, new: str, *, after_s: float) -> None:
        """The person edits what was written."""
        await asyncio.sleep(after_s)
        buffer = await self._gate.amend(PERSON.instance, PERSON.name, text, new)
        self._show(f"✎ {new}", buffer)

    async def type(self, length_s: float, *, after_s: float) -> None:
        """The person is typing, which holds the window open for that long."""
        await asyncio.sleep(after_s)
        held = await self._gate.hold(PERSON.instance, PERSON.name, timedelta(seconds=length_s))
        self._show("… is typing", held.buffer)

    async def take(self) -> tidegate.Batch:
        """The bot gets a batch."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                batch = await anext(self._subscription)
        except TimeoutError:
            raise Failure(f"no batch came within {PATIENCE_S:g} s") from None
        self._stage.closed()
        self.deliveries.append(observed(batch))
        again = f", attempt {batch.attempt}" if batch.attempt > 1 else ""
        self._stage.row(gate=f"▶ one batch of {len(batch.messages)}{again}")
        return batch

    async def answer(self, text: str) -> None:
        """The bot takes a batch and answers at once."""
        batch = await self.take()
        await batch.commit()
        self._sent(batch, text)

    async def answer_slowly(self, text: str, *, thought: str, meanwhile_s: float) -> None:
        """The bot takes a batch and thinks; the person writes again; the reply is not sent."""
        batch = await self.take()
        self._stage.row(bot="… is thinking")
        await self.write(thought, after_s=meanwhile_s)
        await asyncio.sleep(meanwhile_s)
        try:
            await batch.commit()
        except tidegate.Superseded:
            self._stage.row(gate="↺ put back, to come again", bot="✗ drops its reply", trouble=True)
        else:
            self._sent(batch, text)

    async def fail(self) -> None:
        """The bot takes a batch and fails."""
        batch = await self.take()
        await batch.nack(reason="the demo wants it so")
        self._stage.row(gate="↻ tries again", bot="✗ something broke", trouble=True)

    def _sent(self, batch: tidegate.Batch, text: str) -> None:
        self.answered.append(observed(batch))
        self._stage.row(bot=text)

    def _show(self, person: str, buffer: tidegate.BufferInfo | None) -> None:
        if buffer is None:
            raise Failure(f'no window is open for "{person}": is this machine busy?')
        left = buffer.flush_at - buffer.opened_at
        self._stage.waits(person, buffer.message_count, left.total_seconds())
