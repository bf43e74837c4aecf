"""The command itself: what happens in which order, and whether it came out as it should."""

import asyncio
import logging
from datetime import timedelta

import tidegate
from tidegate_server.cli import output
from tidegate_server.cli.demo.stage import Stage
from tidegate_server.cli.demo.story import PERSON, POLICY, Story
from tidegate_server.cli.endings import Failure, run
from tidegate_server.cli.own_server import OwnServer

RETRY_BASE = "300ms"
BREATH_S = 0.4

TURNS = [
    ["hi", "two pizzas, please"],
    ["and a coffee", "to go, please"],
    ["when is it ready?", "oh, and make it three"],
    ["thanks!"],
]
"""What the bot is to have answered: each turn once, whole, and as it was meant in the end."""


def demo() -> None:
    """See in a few seconds what Tidegate does.

    Starts a server of its own, plays a short story on it, checks what came
    out, and leaves nothing behind.
    """
    logging.getLogger("tidegate").addHandler(logging.NullHandler())
    with Stage() as stage:
        story = run(_perform(stage))
        _check(story)
        _sum_up(stage, story)


async def _perform(stage: Stage) -> Story:
    stage.console.print(
        "Tidegate gathers what a person writes in one go, and hands it to the bot as one batch.\n"
        f"This is a real server with windows of {POLICY.delay_ms / 1000:g} s; 8 s is more usual."
    )
    async with (
        OwnServer(retry_base=RETRY_BASE) as own,
        tidegate.Client(own.address) as gate,
        gate.subscribe(PERSON.instance, subscriber_id="the bot") as subscription,
    ):
        story = Story(stage, gate, subscription)
        await _burst(stage, story)
        for scene in (_typing, _second_thought, _failure):
            await asyncio.sleep(BREATH_S)
            await scene(stage, story)
    return story


async def _burst(stage: Stage, story: Story) -> None:
    stage.scene("A burst of messages, one of them edited: one answer")
    await story.write("hi")
    await story.write("one pizza, please", after_s=0.3)
    await story.edit("one pizza, please", "two pizzas, please", after_s=0.3)
    await story.answer("Two, coming up!")


async def _typing(stage: Stage, story: Story) -> None:
    stage.scene("Who is typing is waited for")
    await story.write("and a coffee")
    await story.type(1.5, after_s=0.5)
    await story.write("to go, please", after_s=1.1)
    await story.answer("One coffee to go.")


async def _second_thought(stage: Stage, story: Story) -> None:
    stage.scene("A second thought while the bot is answering: still one answer")
    await story.write("when is it ready?")
    await story.answer_slowly("In 10 minutes.", thought="oh, and make it three", meanwhile_s=0.5)
    await story.answer("Three, in 15 minutes.")


async def _failure(stage: Stage, story: Story) -> None:
    stage.scene("The bot fails, and gets the same batch again")
    await story.write("thanks!")
    await story.fail()
    await story.answer("You're welcome.")


def _check(story: Story) -> None:
    answered = [[message.text for message in batch.messages] for batch in story.answered]
    if answered != TURNS:
        raise Failure(f"the bot answered {answered} and not {TURNS}: is this machine busy?")
    row = [message.sequence for batch in story.answered for message in batch.messages]
    if row != sorted(set(row)):
        raise Failure(f"the messages came in the order {row}")
    firsts = {batch.batch_id: batch for batch in reversed(story.deliveries)}
    for batch in story.deliveries:
        if batch != firsts[batch.batch_id]:
            raise Failure(f"batch {batch.batch_id} came again with other content")
        if batch.late_ms < 0:
            raise Failure(f"batch {batch.batch_id} came {-batch.late_ms} ms early")


def _sum_up(stage: Stage, story: Story) -> None:
    messages, answers = sum(map(len, TURNS)), len(story.answered)
    late = timedelta(milliseconds=max(batch.late_ms for batch in story.deliveries))
    stage.summary(
        [
            ("messages in", str(messages), str(messages)),
            ("answers", str(answers), f'{messages}, the first one to "{TURNS[0][0]}"'),
            ("an edit", "is what the bot reads", "comes too late"),
            ("a second thought", "one answer to the whole turn", "two, the first one stale"),
            ("after a failure", "the same batch again", "nothing, or an answer twice"),
            ("batches late by", f"{output.seconds(late)} at most", "-"),
        ]
    )
    stage.console.print(
        "✓ every message was answered exactly once, in order\n\n"
        "Next: `tidegate serve`, then `tidegate subscribe` and, beside it, "
        "`tidegate send bot ann hi wait`.",
        soft_wrap=True,
    )
