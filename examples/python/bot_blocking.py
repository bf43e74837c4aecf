"""The bot of bot.py without asyncio. Run: python bot_blocking.py [host:port]"""

import sys
from uuid import uuid4

from tidegate.blocking import Client


def on_message(gate: Client, user: str, text: str, message_id: str) -> None:
    """What the webhook does with each message. The id makes a repeated webhook harmless."""
    added = gate.add("bot", user, text, message_id=message_id)
    if added.fallback_to_immediate:
        answer(user, [text])


def answer(user: str, texts: list[str]) -> None:
    print(f"{user} wrote: {' / '.join(texts)}")


def main(target: str) -> None:
    with Client(target) as gate, gate.subscribe("bot") as batches:
        for text in ("Hello", "I ordered a bike", "Where is it?"):
            on_message(gate, "ann", text, message_id=uuid4().hex)
        for batch in batches:
            with batch:  # acknowledged at the end; an exception has it tried again
                answer(batch.conversation, [message.text for message in batch.messages])
            break  # a bot goes on


if __name__ == "__main__":
    main(*sys.argv[1:] or ["127.0.0.1:7460"])
