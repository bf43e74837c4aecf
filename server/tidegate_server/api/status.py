"""The only place where an error becomes a status of the wire.

Every status carries a `google.rpc.Status` with the details that the contract names for its code;
clients branch on code and reason, never on the text.
"""

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from tidegate_server.errors import (
    BadCredentials,
    Exhausted,
    InvalidField,
    NotAllowed,
    NotFound,
    Precondition,
    Refused,
    TidegateError,
    Unavailable,
)

DOMAIN = "tidegate"
DETAILS_KEY = "grpc-status-details-bin"


def code_of(error: TidegateError) -> grpc.StatusCode:
    """The status code of an error."""
    match error:
        case Refused():
            return grpc.StatusCode.INVALID_ARGUMENT
        case NotFound():
            return grpc.StatusCode.NOT_FOUND
        case Precondition():
            return grpc.StatusCode.FAILED_PRECONDITION
        case Exhausted():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case Unavailable():
            return grpc.StatusCode.UNAVAILABLE
        case BadCredentials():
            return grpc.StatusCode.UNAUTHENTICATED
        case NotAllowed():
            return grpc.StatusCode.PERMISSION_DENIED
        case _:
            return grpc.StatusCode.INTERNAL


def rich_status(error: TidegateError) -> Status:
    """The status that goes out with an error, details included."""
    code: int = code_of(error).value[0]
    status = Status(code=code, message=str(error))
    if error.reason:
        status.details.add().Pack(_info(error))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _info(error: TidegateError) -> details.ErrorInfo:
    info = details.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, InvalidField):
        info.metadata["field"] = error.field
    return info


def _details(error: TidegateError) -> list[Message]:
    match error:
        case Refused():
            return [_bad_request(error)]
        case NotFound():
            # A conversation's name is often a phone number: it stays out of what clients may log.
            name = error.name if error.kind == "batch" else ""
            return [details.ResourceInfo(resource_type=error.kind, resource_name=name)]
        case Precondition():
            violation = details.PreconditionFailure.Violation(
                type=error.reason, description=str(error)
            )
            return [details.PreconditionFailure(violations=[violation])]
        case Exhausted():
            violation = details.QuotaFailure.Violation(
                subject=error.subject, description=str(error)
            )
            quota = details.QuotaFailure(violations=[violation])
            return [quota, _retry_info(error.retry_after_ms)]
        case Unavailable():
            return [_retry_info(error.retry_after_ms)]
        case _:
            return []


def _bad_request(error: Refused) -> details.BadRequest:
    field, rule = "message", str(error)
    if isinstance(error, InvalidField):
        field, rule = error.field, error.rule
    violation = details.BadRequest.FieldViolation(
        field=field, description=rule, reason=error.reason
    )
    return details.BadRequest(field_violations=[violation])


def _retry_info(retry_after_ms: int) -> details.RetryInfo:
    info = details.RetryInfo()
    info.retry_delay.FromMilliseconds(retry_after_ms)
    return info
