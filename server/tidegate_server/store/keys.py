"""Every key of the store, with its type and life time.

    key                  type    expires          holds
    tg:layout            hash    never            version and partitions of this layout
    tg:{pN}:ctr          hash    never            seq, fence (both never reused); gauges of all
    tg:{pN}:n:<inst>     hash    never            the same gauges of one instance
    tg:{pN}:inst         zset    never            instance -> earliest due time of its conversations
    tg:{pN}:due:<inst>   zset    never            cid -> when its buffer, or its retry, is due
    tg:{pN}:lease        zset    never            cid -> end of its batch's lease
    tg:{pN}:idx          hash    never            unsettled batch id -> cid
    tg:{pN}:c:<cid>      hash    never            window, buffer, batch in front and its token
    tg:{pN}:m:<cid>      list    never            the messages: sealed ones first, then the buffer
    tg:{pN}:a:<cid>      list    never            attempts of the batch in front
    tg:{pN}:d:<cid>      hash    2 x de-dup. **   message id -> "sequence time copies"; "" -> until
                                                  when it takes ids, until when those of e count
    tg:{pN}:e:<cid>      hash    2 x de-dup. **   the generation of ids before that
    tg:{pN}:l:<cid>      list    status           past batches, newest first: "settled id first last
                                                  state"
    tg:{pN}:x:<cid>      set     never            ids of its dead letters
    tg:{pN}:s:<bid>      hash    status *         how a batch ended
    tg:{pN}:r:<bid>      list    retained *       its messages
    tg:{pN}:t:<bid>      list    status *         its attempts
    tg:{pN}:dead         zset    never            dead letters: batch id -> when
    tg:{pN}:dead:<inst>  zset    never            the same of one instance
    tg:{pN}:beat         string  a day    nothing; written so that replicas can be asked for it
    tg:notices           channel                  what servers tell each other
    tg:events            channel                  what happens, while somebody watches

* Never for a dead letter. What holds an unsettled message never expires.
** From the beginning of the generation on; it takes ids for half of that time.

A cid is "<instance>/<conversation>": an instance has no slash, so no two pairs have the same. The
braces of a conversation cannot reach the hash tag, which is the first pair in the key.
"""

from dataclasses import dataclass
from functools import cached_property

from tidegate_server.core.model import Conversation

LAYOUT_VERSION = 1


def cid_of(conversation: Conversation) -> str:
    """The unambiguous name of a conversation."""
    return f"{conversation.instance}/{conversation.name}"


def conversation_of(cid: str | bytes) -> Conversation:
    """The conversation of a name."""
    text = cid.decode() if isinstance(cid, bytes) else cid
    instance, _, name = text.partition("/")
    return Conversation(instance, name)


def partition_of(batch_id: str) -> int | None:
    """The partition of a batch id, None for a text of another form."""
    parts = batch_id.split("-")
    if len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts):
        return int(parts[0])
    return None


@dataclass(frozen=True)
class Keys:
    """The keys of one partition."""

    prefix: str
    partition: int = 0

    @cached_property
    def base(self) -> str:
        """What all keys of the partition begin with; the braces keep them in one slot."""
        return f"{self.prefix}:{{p{self.partition}}}:"

    @property
    def layout(self) -> str:
        """The layout's hash, one for the whole store."""
        return f"{self.prefix}:layout"

    @property
    def notices(self) -> str:
        """The channel of notices, one for the whole store."""
        return f"{self.prefix}:notices"

    @property
    def events(self) -> str:
        """The channel of events, one for the whole store."""
        return f"{self.prefix}:events"

    def shared(self, name: str) -> str:
        """A key of the partition: ctr, inst, lease, idx, dead or beat."""
        return self.base + name

    def instance(self, kind: str, instance: str) -> str:
        """A key of an instance: due, n or dead."""
        return f"{self.base}{kind}:{instance}"

    def of(self, kind: str, name: str) -> str:
        """A key of a conversation (c, m, a, d, e, l, x) or of a batch (s, r, t)."""
        return f"{self.base}{kind}:{name}"

    def conversation(self, conversation: Conversation) -> list[str]:
        """What a script that works on one conversation gets, in the prelude's order."""
        cid, instance = cid_of(conversation), conversation.instance
        return [
            self.shared("ctr"),
            self.shared("inst"),
            self.instance("due", instance),
            self.instance("n", instance),
            self.shared("lease"),
            self.shared("idx"),
            *(self.of(kind, cid) for kind in "cmalx"),
        ]

    def seen(self, conversation: Conversation) -> list[str]:
        """The two generations of message ids, the newer first."""
        cid = cid_of(conversation)
        return [self.of("d", cid), self.of("e", cid)]

    def settled(self, batch_id: str, instance: str) -> list[str]:
        """What a script that ends a batch gets besides."""
        return [
            *(self.of(kind, batch_id) for kind in "srt"),
            self.shared("dead"),
            self.instance("dead", instance),
        ]

    def scan_pattern(self) -> str:
        """Matches the conversations' hashes and lists."""
        return f"{self.base}[cm]:*"

    def cid_in(self, key: bytes) -> str:
        """The cid of a key that the pattern matched."""
        return key.decode().removeprefix(self.base)[2:]
