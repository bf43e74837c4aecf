"""What commands say of a buffer, a batch, its attempts and its messages."""

from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

import tidegate
from tidegate_server.cli import output

_STYLES = {
    tidegate.BatchState.COMPLETED: "green",
    tidegate.BatchState.DEAD_LETTERED: "red",
    tidegate.BatchState.RETRY_SCHEDULED: "yellow",
}


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
    table.add_row("", "state", batch_state(info.state))
    table.add_row("", "messages", f"{info.message_count:,} ({info.payload_bytes:,} bytes)")
    table.add_row("", "opened", output.clock(info.opened_at))
    table.add_row("", "due", f"{output.clock(info.due_at)} ({output.word(info.flush_reason)})")
    table.add_row("", "sealed", output.clock(info.sealed_at))
    table.add_row("", "attempt", f"{info.attempt} of {info.max_attempts}")
    if info.rebuffer_count:
        table.add_row("", "put back", output.count(info.rebuffer_count, "time"))
    if info.next_attempt_at:
        table.add_row("", "next attempt", output.clock(info.next_attempt_at))
    if info.settled_at:
        table.add_row("", "settled", output.clock(info.settled_at))
    if info.last_error_reason:
        table.add_row("", "last error", last_error(info))
    return table


def batch_state(state: tidegate.BatchState) -> Text:
    """Where a batch stands, coloured if that is worth a look."""
    return Text(output.word(state), _STYLES.get(state, ""))


def last_error(info: tidegate.BatchInfo) -> Text:
    """Why the newest attempt failed, in one line."""
    return why(info.last_error_reason, info.last_error_message)


def why(reason: str, message: str) -> Text:
    """A reason and its sentence, as far as they are known."""
    return output.cell(": ".join(filter(None, (reason, message))))


def shown(message: tidegate.Message) -> Text:
    """The payload as far as a terminal can show it."""
    if isinstance(message.payload, bytes):
        return output.cell(f"({len(message.payload):,} bytes of {message.content_type})", "dim")
    return output.cell(message.payload)


def window(buffer: tidegate.BufferInfo) -> str:
    """When it closes: "closes in 2.31 s", "over for 120 ms"."""
    left = buffer.flush_at - datetime.now(UTC)
    if buffer.state is tidegate.BufferState.DUE:
        return f"over for {output.seconds(max(-left.total_seconds(), 0))}"
    return f"closes in {output.seconds(max(left.total_seconds(), 0))}"
