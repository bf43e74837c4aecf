"""What holds in every state. The numbers are those of ARCHITECTURE.md."""

from itertools import pairwise

from tests.model.state import ACKED, REBUFFERED, Chat, State


def contradiction(state: State, chat_of: tuple[int, ...]) -> str:
    """The first invariant that a state contradicts, in a sentence; empty if none."""
    if state.broken:
        return state.broken
    for number, chat in enumerate(state.store):
        if chat.due + chat.lease != bool(chat.row):
            return "I10: a conversation is not in exactly one of the indexes"
        if found := _misplaced(state, number, chat, chat_of) or _mishanded(state, number, chat):
            return found
    return ""


def _misplaced(state: State, number: int, chat: Chat, chat_of: tuple[int, ...]) -> str:
    places = list(chat.row)
    for past in chat.past:
        if past.outcome != REBUFFERED:
            places += past.messages
    for message, phase in enumerate(state.messages):
        if chat_of[message] != number:
            continue
        if (found := places.count(message)) > 1:
            return f"I15: m{message} was taken twice"
        if phase == ACKED and not found:
            return f"I1: m{message} was acknowledged and is gone"
    return ""


def _mishanded(state: State, number: int, chat: Chat) -> str:
    handed = state.handed[number]
    known: dict[int, int] = {}
    for batch, messages in handed:
        for message in messages:
            other = known.setdefault(message, batch)
            if other != batch and chat.outcome(other) != REBUFFERED:
                return f"I2: m{message} was handed out in the batches {other} and {batch}"
            known[message] = batch
    if len({batch for batch, _ in handed}) < len(handed):
        return "I3: a batch was handed out with other messages than before"
    for (before, first), (batch, second) in pairwise(handed):
        if chat.outcome(before) is None:
            return f"I4: batch {batch} was handed out while {before} was not settled"
        if chat.outcome(before) != REBUFFERED and max(map(chat.ids.index, first)) > min(
            map(chat.ids.index, second)
        ):
            return f"I4: batch {batch} was handed out after messages that are newer"
    return ""
