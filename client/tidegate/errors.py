"""What can go wrong, as one tree. No other exception of gRPC's reaches the caller.

    TidegateError             also raised itself: for a client that is closed or used wrongly
    ├── InvalidArgument       the request can never succeed as it is; `fields` names the culprits
    ├── NotFound              no such batch, conversation or message, or it has been forgotten
    ├── LeaseLost             the batch was given out again, or settled otherwise
    ├── Superseded            newer messages arrived in the conversation
    ├── AlreadySealed         the message is in a batch already, or was
    ├── ResourceExhausted     a limit is reached or the store is full; nothing was stored
    ├── Unavailable           the server or its store cannot be reached; the repeat is safe
    ├── Unauthenticated       no or wrong credentials
    ├── PermissionDenied      credentials without that instance or role
    ├── DeadlineExceeded      no answer in time; the repeat is safe
    └── ServerError           anything else

The class follows the reason that the server gave, and its status code where it gave none.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import grpc

from tidegate import _status

__all__ = [
    "AlreadySealed",
    "DeadlineExceeded",
    "InvalidArgument",
    "LeaseLost",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "ServerError",
    "Superseded",
    "TidegateError",
    "Unauthenticated",
    "Unavailable",
]


class TidegateError(Exception):
    """Base of all errors of this package. Its text is a sentence for people.

    `message` is that sentence. `reason` is the contract's ErrorReason without its prefix, such as
    "LEASE_LOST", or empty where no Tidegate server answered. `code` is the gRPC status.
    `retry_after` is how long the server asks to wait before a repeat. `fields` says of each field
    that broke a rule, by its path in the request, which rule that is.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        retry_after: timedelta | None = None,
        fields: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code or type(self).code
        self.retry_after = retry_after
        self.fields = fields or {}


class InvalidArgument(TidegateError):
    """The request can never succeed as it is. `fields` says what is wrong with which field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(TidegateError):
    """No such batch, conversation or message is known; or it has been forgotten."""

    code = grpc.StatusCode.NOT_FOUND


class LeaseLost(TidegateError):
    """The batch was given out again, or settled otherwise: its outcome is not yours any more."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Superseded(TidegateError):
    """Newer messages arrived in the conversation; the batch's messages come again with them."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class AlreadySealed(TidegateError):
    """The message is in a batch already, or was: it cannot be changed any more."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(TidegateError):
    """A limit is reached, or the store is full. Nothing was stored. See `retry_after`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(TidegateError):
    """The server or its store cannot be reached, also after several tries. The repeat is safe."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(TidegateError):
    """The server wants a token, or does not know this one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(TidegateError):
    """The token does not cover that instance or role."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExceeded(TidegateError):
    """No answer came in time. The call may have had its effect; the repeat is safe."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ServerError(TidegateError):
    """The server failed in a way that this client does not know."""

    code = grpc.StatusCode.UNKNOWN


_BY_REASON: dict[str, type[TidegateError]] = {
    "INVALID_FIELD": InvalidArgument,
    "MESSAGE_TOO_LARGE": InvalidArgument,
    "NOT_FOUND": NotFound,
    "LEASE_LOST": LeaseLost,
    "SUPERSEDED": Superseded,
    "ALREADY_SEALED": AlreadySealed,
    "QUOTA_EXCEEDED": ResourceExhausted,
    "STORE_FULL": ResourceExhausted,
    "TOO_MANY_SUBSCRIBERS": ResourceExhausted,
    "STORE_UNAVAILABLE": Unavailable,
    "DURABILITY_UNCONFIRMED": Unavailable,
    "DRAINING": Unavailable,
    "BAD_CREDENTIALS": Unauthenticated,
    "NOT_ALLOWED": PermissionDenied,
}

_BY_CODE: dict[grpc.StatusCode, type[TidegateError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        ResourceExhausted,
        Unavailable,
        Unauthenticated,
        PermissionDenied,
        DeadlineExceeded,
    )
}
# Not the caller's own cancellation: a server that stops cancels what it has not begun with.
_BY_CODE[grpc.StatusCode.CANCELLED] = Unavailable

# Of grpc.aio, when the connection breaks amid a call, under the status INTERNAL.
_BROKEN_OFF = "Internal error from Core"

_STATUSES: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}


def from_rpc_error(error: grpc.RpcError, target: str) -> TidegateError:
    """The error of this tree for one of gRPC's. `target` is the server, for the text."""
    code = error.code()
    if error.details() == _BROKEN_OFF:
        code = grpc.StatusCode.UNAVAILABLE
    details = _status.read(_trailer(error.trailing_metadata() or ()))
    kind = _BY_REASON.get(details.reason) or _BY_CODE.get(code, ServerError)
    return kind(
        _sentence(code, error.details() or "", details.reason, target),
        reason=details.reason,
        code=code,
        retry_after=details.retry_after,
        fields=details.fields,
    )


def from_code(code: int, reason: str, message: str) -> TidegateError:
    """The error of this tree for one entry of several that failed, by its google.rpc.Code."""
    status = _STATUSES.get(code, grpc.StatusCode.UNKNOWN)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(status, ServerError)
    return kind(
        message or reason or f"the server answered {status.name}", reason=reason, code=status
    )


def late(target: str) -> DeadlineExceeded:
    """The error of a call whose time is over before its answer came."""
    return DeadlineExceeded(_sentence(grpc.StatusCode.DEADLINE_EXCEEDED, "", "", target))


def closed() -> TidegateError:
    """The error of every call after the client's close."""
    return TidegateError("this client or its channel is closed; make a new one")


def _trailer(metadata: Iterable[Any]) -> bytes | None:
    for key, value in metadata:
        if key == _status.TRAILER and isinstance(value, bytes):
            return value
    return None


def _sentence(code: grpc.StatusCode, text: str, reason: str, target: str) -> str:
    if reason:
        return text or reason
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"no Tidegate server answers at {target}: {text}"
        case grpc.StatusCode.CANCELLED:
            return f"the server at {target} stopped before it began with the call"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the server at {target} did not answer in time"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"the server at {target} does not know this call; is it a recent Tidegate?"
        case _:
            return text or f"the server at {target} answered {code.name}"
