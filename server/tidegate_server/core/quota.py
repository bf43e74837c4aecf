"""How much may wait: the limits of a conversation, of an instance, and of the store.

What waits is in no batch: a batch counts no more once it is formed, and again if its messages go
back to the buffer. Those are never refused; what comes after them is, until there is room.
"""

from enum import IntEnum
from typing import NamedTuple


class Limit(IntEnum):
    """The limits, in the order in which they are looked at."""

    CONVERSATION_MESSAGES = 1
    CONVERSATION_BYTES = 2
    INSTANCE_MESSAGES = 3
    INSTANCE_BUFFERS = 4
    STORE_MESSAGES = 5
    STORE_BUFFERS = 6

    @property
    def subject(self) -> str:
        """What it is a limit of: "conversation", "instance" or "store"."""
        return self.name.partition("_")[0].lower()


class Quota(NamedTuple):
    """A number for each limit: the most that may wait, 0 for any, or what would wait."""

    conversation_messages: int = 0
    conversation_bytes: int = 0
    instance_messages: int = 0
    instance_buffers: int = 0
    store_messages: int = 0
    store_buffers: int = 0


def first_passed(quota: Quota, would_wait: Quota) -> Limit | None:
    """The first limit that would be passed, None if all would hold."""
    for limit, most, count in zip(Limit, quota, would_wait, strict=True):
        if 0 < most < count:
            return limit
    return None


def may_grow(quota: Quota, before: int, after: int) -> bool:
    """Whether the bytes of a buffer may change so. They may always become fewer."""
    return after <= before or not first_passed(quota, Quota(conversation_bytes=after))


def retry_after_ms(limit: Limit, due_ms: int | None, now_ms: int) -> int:
    """When to try again: when the conversation is due, if that makes room, else in a second."""
    if limit.subject == "conversation" and due_ms is not None and due_ms > now_ms:
        return due_ms - now_ms
    return 1_000
