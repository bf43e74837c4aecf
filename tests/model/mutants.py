"""The rules, each time with one of them broken. Every mutant must be found out."""

from tests.model.rules import LIMIT, Rules
from tests.model.state import COMPLETED, Chat, Head, Verdict


class AnyTokenSettles(Rules):
    """An old token settles a batch that has been given out again."""

    def is_newest(self, head: Head, token: int) -> bool:
        return True


class DueEntryStays(Rules):
    """The claim leaves the conversation in the index of what is due."""

    def claim(self, chat: Chat, token: int, batch: int) -> Chat | None:
        after = super().claim(chat, token, batch)
        return after._replace(due=True) if after else None


class SealedTakesMore(Rules):
    """A message that comes after the batch was formed still goes into it."""

    def add(self, chat: Chat, message: int) -> Chat:
        after, head = super().add(chat, message), chat.head
        if after is chat or head is None or chat.open or head.size >= LIMIT:
            return after
        return after._replace(head=head._replace(size=head.size + 1))


class AckTakesAll(Rules):
    """The ack deletes the whole row, also what came after the batch."""

    def ack(self, chat: Chat, batch: int, verdict: Verdict) -> tuple[Chat, str]:
        after, answer = super().ack(chat, batch, verdict)
        if answer == COMPLETED and after != chat:
            after = after._replace(row=(), due=False)
        return after, answer


class IdIsForgotten(Rules):
    """The store does not remember which ids it has taken."""

    def knows(self, chat: Chat, message: int) -> bool:
        return False


class ExpiryFormsAnotherBatch(Rules):
    """A lease that is over puts the messages back into the buffer, for a batch with another id."""

    def expire(self, chat: Chat) -> Chat:
        return chat._replace(head=None, due=True, lease=False) if chat.lease else chat


class ClaimGoesOutUnconfirmed(Rules):
    """A batch goes out before the replica knows of it, so that it may be formed again."""

    unconfirmed_claims = True


class OldPrimaryReturns(Rules):
    """A primary that was given up comes back, and is taken for the primary again."""

    old_primary_returns = True


class NoWait(Rules):
    """No answer waits for the replica: what the lower levels do not promise."""

    replicated = False


class NackForgetsTheOrder(Rules):
    """A batch that is tried again lines up behind what came after it."""

    def again(self, chat: Chat, head: Head) -> Chat:
        after = super().again(chat, head)
        return after._replace(row=chat.open + chat.sealed, head=None) if chat.open else after


class UnsealLosesRiders(Rules):
    """A batch that is put back into the buffer is only taken off the row."""

    def unseal(self, chat: Chat, head: Head, verdict: Verdict) -> Chat:
        after = super().unseal(chat, head, verdict)
        return after._replace(row=chat.open, due=bool(chat.open))


class NonceIsForgotten(Rules):
    """The same claim, repeated, forms another batch of what waits."""

    def claim(self, chat: Chat, token: int, batch: int) -> Chat | None:
        if chat.lease and chat.head and chat.head.token == token and chat.open:
            left = self.end(chat, chat.head, Verdict(token, ""), COMPLETED)
            return super().claim(left, token, batch)
        return super().claim(chat, token, batch)


class NackFindsNoIndex(Rules):
    """A nack takes the batch out of one index, and puts it into no other."""

    def again(self, chat: Chat, head: Head) -> Chat:
        return super().again(chat, head)._replace(due=not head.nacks)


class RepeatCountsTwice(Rules):
    """The verdict of a nack is not kept, so that its repeat fails another attempt."""

    def judge(self, chat: Chat, batch: int, verdict: Verdict) -> tuple[Head | None, str]:
        head, answer = super().judge(chat, batch, verdict)
        if head is None and chat.head and chat.head.batch == batch and not chat.head.token:
            return chat.head, ""
        return head, answer


MUTANTS: dict[str, type[Rules]] = {
    "any-token": AnyTokenSettles,
    "due-entry-stays": DueEntryStays,
    "sealed-takes-more": SealedTakesMore,
    "ack-takes-all": AckTakesAll,
    "id-forgotten": IdIsForgotten,
    "expiry-reforms": ExpiryFormsAnotherBatch,
    "claim-unconfirmed": ClaimGoesOutUnconfirmed,
    "old-primary": OldPrimaryReturns,
    "no-wait": NoWait,
    "nack-reorders": NackForgetsTheOrder,
    "unseal-loses": UnsealLosesRiders,
    "nonce-forgotten": NonceIsForgotten,
    "neither-index": NackFindsNoIndex,
    "repeat-counts": RepeatCountsTwice,
}
