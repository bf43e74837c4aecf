"""`tidegate status`, `flush`, `hold` and `discard`: one conversation and its window."""

from datetime import timedelta
from typing import Annotated

from rich.console import Group
from rich.text import Text

from tidegate_server.cli import facts, options, output


def status(
    instance: options.Instance,
    conversation: options.Conversation,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Show where a conversation stands."""
    with options.connect(server, token) as gate:
        found = gate.status(instance, conversation)
    if as_json:
        output.print_json(found)
        return
    console = output.console()
    console.print(output.cell(f"{conversation} of {instance}", "bold"))
    parts = {
        "buffer": found.buffer and facts.buffer_facts(found.buffer),
        "batch under way": found.current_batch and facts.batch_facts(found.current_batch),
        "newest settled batch": found.last_batch and facts.batch_facts(found.last_batch),
    }
    for title, table in parts.items():
        shown = table or Text("  none", "dim")
        console.print(Group(Text(f"\n{title}"), shown))


def flush(
    instance: options.Instance,
    conversation: options.Conversation,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Close a conversation's window now."""
    with options.connect(server, token) as gate:
        result = gate.flush(instance, conversation)
    if as_json:
        output.print_json(result)
    elif result.flushed and result.buffer:
        waiting = output.count(result.buffer.message_count, "message")
        output.console().print(f"✓ the window is closed; {waiting} will be handed out")
    else:
        output.console().print("= no window was open; nothing changed")


def hold(
    instance: options.Instance,
    conversation: options.Conversation,
    *,
    length: Annotated[
        timedelta | None,
        options.duration_option("At least this long from now. Default 5s, at most 60s.", "--for"),
    ] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Keep a conversation's window open: its user is typing.

    Never past the window's max-wait, and never shorter than it was.
    """
    with options.connect(server, token) as gate:
        result = gate.hold(instance, conversation, length or timedelta(seconds=5))
    if as_json:
        output.print_json(result)
    elif result.held and result.buffer:
        output.console().print(f"✓ the window {facts.window(result.buffer)}")
    else:
        output.console().print("= no window was open; nothing changed")


def discard(
    instance: options.Instance,
    conversation: options.Conversation,
    *,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Drop the messages that wait in a conversation's buffer.

    For a conversation that a person took over. A batch under way stays.
    """
    with options.connect(server, token) as gate:
        count = gate.discard(instance, conversation)
    if as_json:
        output.print_json({"discarded": count})
    elif count:
        output.console().print(f"✓ {output.count(count, 'message')} dropped")
    else:
        output.console().print("= nothing was waiting; nothing changed")
