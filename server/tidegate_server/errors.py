"""What can go wrong, as one tree.

    TidegateError
    ├── Refused                  the request can never succeed as it is
    │   ├── InvalidField         INVALID_FIELD: a field breaks a rule
    │   └── MessageTooLarge      MESSAGE_TOO_LARGE
    ├── NotFound                 NOT_FOUND: no such batch, conversation or message, or forgotten
    ├── Precondition             the state of things forbids it
    │   ├── LeaseLost            LEASE_LOST: given out again, or settled otherwise
    │   ├── Superseded           SUPERSEDED: newer messages arrived
    │   └── AlreadySealed        ALREADY_SEALED: the message is in a batch already
    ├── Exhausted                a limit; nothing was stored
    │   ├── QuotaExceeded        QUOTA_EXCEEDED
    │   ├── StoreFull            STORE_FULL
    │   └── TooManySubscribers   TOO_MANY_SUBSCRIBERS
    ├── Unavailable              try again
    │   ├── StoreUnavailable     STORE_UNAVAILABLE: nothing is known to be stored
    │   │   └── StoreDamaged     the same for one conversation: its keys make no sense
    │   │   └── Unconfirmed      DURABILITY_UNCONFIRMED: stored, but in too few places
    │   └── Draining             DRAINING: the server is shutting down
    ├── BadCredentials           BAD_CREDENTIALS: no token, or a wrong one
    ├── NotAllowed               NOT_ALLOWED: the token does not cover that instance or role
    └── StartupError             the server cannot start; the text says what to do

`reason` is the name of the wire contract's ErrorReason; `api` turns it into a status, and nothing
else does.
"""


class TidegateError(Exception):
    """Base of all errors that a caller can act on. The text is one sentence for people."""

    reason = ""


class Refused(TidegateError):
    """The request can never succeed as it is."""


class InvalidField(Refused):
    """A field breaks a rule. `field` is its path in the request, such as "policy.delay"."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, rule: str):
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class MessageTooLarge(Refused):
    """One message is larger than the server's limit."""

    reason = "MESSAGE_TOO_LARGE"


class NotFound(TidegateError):
    """No such batch, conversation or message, or it has been forgotten.

    `kind` is "batch", "conversation" or "message".
    """

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str):
        super().__init__(f"no {kind} {name} is known; it never was, or it has been forgotten")
        self.kind = kind
        self.name = name


class Precondition(TidegateError):
    """The state of things forbids the request."""


class LeaseLost(Precondition):
    """The batch was given out again, or settled otherwise."""

    reason = "LEASE_LOST"


class Superseded(Precondition):
    """Newer messages arrived in the conversation."""

    reason = "SUPERSEDED"


class AlreadySealed(Precondition):
    """The message is in a batch already, or was."""

    reason = "ALREADY_SEALED"


class Exhausted(TidegateError):
    """A limit is reached; nothing was stored. `retry_after_ms` is when to try again.

    `subject` is what is full: "conversation", "instance", "store" or "server".
    """

    retry_after_ms = 1_000
    subject = "server"


class QuotaExceeded(Exhausted):
    """A limit of what waits in the conversation, the instance or the store."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, text: str, *, subject: str = "conversation", retry_after_ms: int = 1_000):
        super().__init__(text)
        self.subject = subject
        self.retry_after_ms = retry_after_ms


class StoreFull(Exhausted):
    """The store is out of memory, or of disk."""

    reason = "STORE_FULL"
    subject = "store"


class TooManySubscribers(Exhausted):
    """Too many streams or long polls."""

    reason = "TOO_MANY_SUBSCRIBERS"


class Unavailable(TidegateError):
    """The server cannot do it now; the repeat is safe. `retry_after_ms` is when to try again."""

    retry_after_ms = 500


class StoreUnavailable(Unavailable):
    """The store cannot be reached. With `maybe_done` the request may have had its effect."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, text: str, *, maybe_done: bool = False):
        super().__init__(text)
        self.maybe_done = maybe_done


class StoreDamaged(StoreUnavailable):
    """The store answers, but what it holds of a conversation is nothing that scripts can use."""

    def __init__(self, text: str):
        super().__init__(text, maybe_done=True)


class Unconfirmed(StoreUnavailable):
    """Done, but not confirmed by as many replicas as it takes; the repeat asks them again."""

    reason = "DURABILITY_UNCONFIRMED"

    def __init__(self, text: str):
        super().__init__(text, maybe_done=True)


class Draining(Unavailable):
    """The server is shutting down."""

    reason = "DRAINING"

    def __init__(self, text: str = "the server is shutting down; call another one"):
        super().__init__(text)


class BadCredentials(TidegateError):
    """No token, or one that is not known."""

    reason = "BAD_CREDENTIALS"


class NotAllowed(TidegateError):
    """The token does not cover that instance or role."""

    reason = "NOT_ALLOWED"


class StartupError(TidegateError):
    """The server cannot start. The text says what to change."""
