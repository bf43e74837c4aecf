"""The rules of the store, one method for each script. A mutant overrides one of them.

There is no time: a window may be over, and a wait may have passed, at any moment.
"""

from tests.model.state import (
    COMPLETED,
    DEAD,
    DELIVERING,
    LOST,
    REBUFFERED,
    RETRY,
    Chat,
    Head,
    Past,
    Verdict,
)

LIMIT, RETRIES, EXPIRIES = 3, 1, 3
"""Most messages of a window; nacks before the last one; expiries that make a dead letter."""


class Rules:
    """The rules as they are. `replicated`: an answer goes out when the replica has the write."""

    replicated = True
    unconfirmed_claims = False
    old_primary_returns = False

    def add(self, chat: Chat, message: int) -> Chat:
        """Append a message, unless its id is known."""
        if self.knows(chat, message):
            return chat
        waits = chat.due or not chat.head
        return chat._replace(row=(*chat.row, message), ids=(*chat.ids, message), due=waits)

    def knows(self, chat: Chat, message: int) -> bool:
        """Whether the id was taken before."""
        return message in chat.ids

    def claim(self, chat: Chat, token: int, batch: int) -> Chat | None:
        """Lease what is due to a token, forming the batch first. None: there is nothing."""
        if chat.lease and chat.head and chat.head.token == token:
            return chat
        if not chat.due:
            return None
        head = chat.head or Head(batch, min(len(chat.row), LIMIT))
        return chat._replace(head=head._replace(token=token), due=False, lease=True)

    def ack(self, chat: Chat, batch: int, verdict: Verdict) -> tuple[Chat, str]:
        """Settle a batch as processed; `current` only if nothing newer waits."""
        head, before = self.judge(chat, batch, verdict)
        if head is None:
            return chat, before
        if verdict.action == "current" and chat.open:
            return self.unseal(chat, head, verdict), REBUFFERED
        return self.end(chat, head, verdict, COMPLETED), COMPLETED

    def nack(self, chat: Chat, batch: int, verdict: Verdict) -> tuple[Chat, str]:
        """Give a batch back."""
        head, before = self.judge(chat, batch, verdict)
        if head is None:
            return chat, before
        if verdict.action == "REBUFFER":
            return self.unseal(chat, head, verdict), REBUFFERED
        if verdict.action == "RETRY":
            head = head._replace(nacks=head.nacks + 1)
            if head.nacks > RETRIES:
                return self.end(chat, head, verdict, DEAD), DEAD
        return self.again(chat, head._replace(token=0, ended=verdict)), RETRY

    def expire(self, chat: Chat) -> Chat:
        """Take back a batch whose lease is over. Its token stays good until the next claim."""
        head = chat.head
        if not chat.lease or head is None:
            return chat
        head = head._replace(expiries=head.expiries + 1)
        if head.expiries >= EXPIRIES:
            return self.end(chat, head, Verdict(head.token, "expire"), DEAD)
        return self.again(chat, head)

    def judge(self, chat: Chat, batch: int, verdict: Verdict) -> tuple[Head | None, str]:
        """The batch, if the verdict is its token's to give; else what it is answered."""
        if chat.head and chat.head.batch == batch:
            if self.is_newest(chat.head, verdict.token):
                return chat.head, ""
            if chat.head.ended != verdict:
                return None, LOST
            return None, DELIVERING if chat.lease else RETRY
        for past in chat.past:
            if past.batch == batch and past.verdict == verdict:
                return None, past.outcome
        return None, LOST

    def is_newest(self, head: Head, token: int) -> bool:
        """Whether the token is the one in force."""
        return head.token == token

    def again(self, chat: Chat, head: Head) -> Chat:
        """Have the batch wait for its next delivery, under the same id."""
        return chat._replace(head=head, due=True, lease=False)

    def unseal(self, chat: Chat, head: Head, verdict: Verdict) -> Chat:
        """Put the batch back into the buffer: its messages are still in front."""
        past = Past(head.batch, REBUFFERED, chat.sealed, verdict)
        return chat._replace(head=None, due=True, lease=False, past=(*chat.past, past))

    def end(self, chat: Chat, head: Head, verdict: Verdict, outcome: str) -> Chat:
        """Take the batch off the front, and open what waits behind it."""
        past = Past(head.batch, outcome, chat.sealed, verdict)
        rest = chat.open
        return chat._replace(
            row=rest, head=None, due=bool(rest), lease=False, past=(*chat.past, past)
        )
