"""The story: a person writes in bursts, and the bot gets one batch for each."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

import tidegate
from tidegate_server.cli import output, verdict
from tidegate_server.cli.demo.stage import Stage
from tidegate_server.cli.endings import Failure, run
from tidegate_server.cli.own_server import OwnServer
from tidegate_server.cli.replay.play import observed, to_client
from tidegate_server.cli.verdict import Delivery, Record, Sent
from tidegate_server.core.model import Conversation, WindowPolicy

POLICY = WindowPolicy(delay_ms=1_500, grace_ms=300)
PERSON = Conversation("cafe", "a person")
FIRST = ((0.0, "hi"), (0.4, "wait"), (0.5, "actually make it two"))
SECOND = ((0.0, "and a coffee"), (0.6, "to go, please"))
RETRY_BASE = "300ms"
PATIENCE_S = 5.0
BREATH_S = 0.5


def demo() -> None:
    """See in a few seconds what Tidegate does.

    Starts a server of its own, plays a short story on it, and leaves nothing behind.
    """
    logging.getLogger("tidegate").addHandler(logging.NullHandler())
    with Stage() as stage:
        deliveries = run(_perform(stage))
        _sum_up(stage, deliveries)


async def _perform(stage: Stage) -> list[Delivery]:
    stage.console.print(
        "Tidegate gathers what a person writes in one go, and hands it to the bot as one batch.\n"
        f"This is a real server with windows of {POLICY.delay_ms / 1000:g} s; 8 s is more usual."
    )
    async with (
        OwnServer(retry_base=RETRY_BASE) as own,
        tidegate.Client(own.address) as gate,
        gate.subscribe(PERSON.instance, subscriber_id="the bot") as subscription,
    ):
        story = _Story(stage, gate, subscription)
        await story.burst("A burst of messages, and one answer", FIRST)
        await story.answer("Two, coming up!")
        await asyncio.sleep(BREATH_S)
        await story.burst("The bot fails, and gets the same batch again", SECOND)
        await story.fail()
        await story.answer("One coffee to go.")
        return story.deliveries


class _Story:
    """Who says what to whom. Each delivery is written down."""

    def __init__(
        self, stage: Stage, gate: tidegate.Client, subscription: tidegate.Subscription
    ) -> None:
        self._stage = stage
        self._gate = gate
        self._subscription = subscription
        self.deliveries: list[Delivery] = []

    async def burst(self, title: str, messages: Sequence[tuple[float, str]]) -> None:
        """The person writes each message some seconds after the one before."""
        self._stage.scene(title)
        for pause_s, text in messages:
            await asyncio.sleep(pause_s)
            added = await self._gate.add(
                PERSON.instance, PERSON.name, text, message_id=text, policy=to_client(POLICY)
            )
            if added.buffer is None:
                raise Failure("the server took a message and has no window for it")
            left = added.buffer.flush_at - added.buffer.last_message_at
            self._stage.arrived(text, added.buffer.message_count, left.total_seconds())

    async def answer(self, text: str) -> None:
        """The bot takes the batch and answers."""
        batch = await self._batch()
        await batch.ack()
        self._stage.row(bot=text)

    async def fail(self) -> None:
        """The bot takes the batch and fails."""
        batch = await self._batch()
        await batch.nack(reason="the demo wants it so")
        self._stage.row(gate="↻ tries again", bot="✗ something broke", trouble=True)

    async def _batch(self) -> tidegate.Batch:
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


def _sum_up(stage: Stage, deliveries: list[Delivery]) -> None:
    texts = [text for _, text in (*FIRST, *SECOND)]
    acknowledged = frozenset((PERSON, text) for text in texts)
    sent = {PERSON: [Sent(text, text) for text in texts]}
    found = verdict.judge(Record(sent, acknowledged, deliveries), POLICY)
    for check in found.checks:
        if check.failures:
            raise Failure(f"it does not hold that {check.name}: {check.failures[0]}")
    figures, bursts = found.figures, 2
    if figures.batches_out != bursts:
        raise Failure(
            f"{bursts} bursts came in {figures.batches_out} batches: is this machine busy?"
        )
    _show(stage, figures, texts)


def _show(stage: Stage, figures: verdict.Figures, texts: list[str]) -> None:
    messages, batches = len(texts), figures.batches_out
    late = timedelta(milliseconds=figures.late_at(1))
    stage.summary(
        [
            ("messages in", str(messages), str(messages)),
            ("batches out", str(batches), "-"),
            ("answers", str(batches), f'{messages}, the first one to "{texts[0]}"'),
            ("after a failure", "the same batch again", "nothing, or an answer twice"),
            ("batches late by", f"{output.seconds(late)} at most", "-"),
        ]
    )
    stage.console.print(
        "✓ every message was in exactly one batch, in order\n\n"
        "Next: `tidegate serve`, then `tidegate subscribe` and, beside it, "
        "`tidegate send bot ann hi wait`.",
        soft_wrap=True,
    )
