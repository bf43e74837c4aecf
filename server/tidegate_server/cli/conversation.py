"""`tidegate status` and `tidegate flush`: one conversation."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

import tidegate
from tidegate_server.cli import options, output


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
        "buffer": found.buffer and buffer_facts(found.buffer),
        "batch under way": found.current_batch and batch_facts(found.current_batch),
        "newest settled batch": found.last_batch and batch_facts(found.last_batch),
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


def buffer_facts(buffer: tidegate.BufferInfo) -> Table:
    """An open buffer, a fact a line."""
    table = output.facts()
    table.add_row("", "state", output.word(buffer.state))
    table.add_row("", "messages", f"{buffer.message_count:,} ({buffer.payload_bytes:,} bytes)")
    table.add_row("", "opened", output.clock(buffer.opened_at))
    table.add_row("", "newest message", output.clock(buffer.last_message_at))
    table.add_row("", "window closes", output.clock(buffer.flush_at))
    return table


def batch_facts(info: tidegate.BatchInfo) -> Table:
    """A batch, a fact a line."""
    table = output.facts()
    table.add_row("", "id", info.batch_id)
    table.add_row("", "state", _state(info))
    table.add_row("", "messages", f"{info.message_count:,} ({info.payload_bytes:,} bytes)")
    table.add_row("", "opened", output.clock(info.opened_at))
    table.add_row("", "due", f"{output.clock(info.due_at)} ({output.word(info.flush_reason)})")
    table.add_row("", "sealed", output.clock(info.sealed_at))
    table.add_row("", "attempt", f"{info.attempt} of {info.max_attempts}")
    if info.next_attempt_at:
        table.add_row("", "next attempt", output.clock(info.next_attempt_at))
    if info.settled_at:
        table.add_row("", "settled", output.clock(info.settled_at))
    if info.last_error_reason:
        table.add_row("", "last error", last_error(info))
    return table


def last_error(info: tidegate.BatchInfo) -> Text:
    """Why the newest attempt failed, in one line."""
    parts = filter(None, (info.last_error_reason, info.last_error_message))
    return output.cell(": ".join(parts))


def _state(info: tidegate.BatchInfo) -> Text:
    styles = {
        tidegate.BatchState.COMPLETED: "green",
        tidegate.BatchState.DEAD_LETTERED: "red",
        tidegate.BatchState.RETRY_SCHEDULED: "yellow",
    }
    return Text(output.word(info.state), styles.get(info.state, ""))
