"""`tidegate amend` and `remove`: one message that is not in a batch yet."""

from typing import Annotated

import typer

from tidegate_server.cli import facts, options, output


def amend(
    instance: options.Instance,
    conversation: options.Conversation,
    message_id: options.MessageId,
    text: Annotated[str, typer.Argument(help="What it says now.")],
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Replace the text of a message: its user edited it.

    Place and window stay. Fails once the message is in a batch.
    """
    with options.connect(server, token) as gate:
        buffer = gate.amend(instance, conversation, message_id, text)
    if as_json:
        output.print_json({"buffer": buffer})
        return
    output.console().print(f"✓ {output.printable(message_id)} is amended; {facts.window(buffer)}")


def remove(
    instance: options.Instance,
    conversation: options.Conversation,
    message_id: options.MessageId,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Take a message out of the buffer: its user deleted it.

    Fails once the message is in a batch.
    """
    with options.connect(server, token) as gate:
        buffer = gate.remove(instance, conversation, message_id)
    if as_json:
        output.print_json({"buffer": buffer})
        return
    left = output.count(buffer.message_count, "message") if buffer else "nothing"
    output.console().print(f"✓ {output.printable(message_id)} is gone; {left} left")
