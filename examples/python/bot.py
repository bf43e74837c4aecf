"""A bot: takes messages in as they come, answers whole bursts. Run: python bot.py [host:port]"""

import asyncio
import sys
from uuid import uuid4

from tidegate import Client


async def on_message(gate: Client, user: str, text: str, message_id: str) -> None:
    """What the webhook does with each message. The id makes a repeated webhook harmless."""
    added = await gate.add("bot", user, text, message_id=message_id)
    if added.fallback_to_immediate:
        await answer(user, [text])


async def answer(user: str, texts: list[str]) -> None:
    print(f"{user} wrote: {' / '.join(texts)}")


async def main(target: str) -> None:
    async with Client(target) as gate, gate.subscribe("bot") as batches:
        for text in ("Hello", "I ordered a bike", "Where is it?"):
            await on_message(gate, "ann", text, message_id=uuid4().hex)
        async for batch in batches:
            async with batch:  # acknowledged at the end; an exception has it tried again
                await answer(batch.conversation, [message.text for message in batch.messages])
            break  # a bot goes on


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["127.0.0.1:7460"]))
