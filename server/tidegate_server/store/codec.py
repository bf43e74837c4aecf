"""How a message lies in the store: a line of text that scripts can read, then the opaque body.

    <sequence> <received at, ms> <payload bytes> <flush 0|1> <amended at, ms> <id> NEWLINE <body>

A message id has no control characters, so the first newline ends the line.
"""

from tidegate_server.core.model import StoredMessage

_MOST = 1 << 53
"""Scripts count in doubles: nothing that they write is larger."""


class Corrupt(ValueError):
    """A stored element that is no message."""


def encode(message: StoredMessage) -> bytes:
    """The element of the list."""
    return b"%d %d %d %d %d %b\n%b" % (
        message.sequence,
        message.received_at_ms,
        message.payload_bytes,
        message.flush,
        message.amended_at_ms,
        message.id.encode(),
        message.body,
    )


def decode(element: bytes) -> StoredMessage:
    """The message of an element.

    Raises:
        Corrupt: The element is no message.
    """
    line, newline, body = element.partition(b"\n")
    try:
        sequence, at_ms, size, flush, amended_ms, message_id = line.split(b" ", 5)
        if not newline:
            raise Corrupt("a stored element has no first line")
        found = StoredMessage(
            sequence=int(sequence),
            received_at_ms=int(at_ms),
            payload_bytes=int(size),
            flush=flush == b"1",
            id=message_id.decode(),
            body=body,
            amended_at_ms=int(amended_ms),
        )
    except ValueError as error:
        raise Corrupt(f"a stored element's first line is damaged: {error}") from None
    numbers = found.sequence, found.received_at_ms, found.payload_bytes, found.amended_at_ms
    if min(numbers) < 0 or max(numbers) > _MOST:
        raise Corrupt("a stored element's first line is damaged: a number is out of range")
    return found
