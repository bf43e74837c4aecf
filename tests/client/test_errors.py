import pickle
from datetime import timedelta

import grpc
import grpc.aio
import pytest

import tidegate
from tests.support.fake_gate import Failure, failure
from tidegate import errors
from tidegate.v1 import types_pb2

CODES = {
    "INVALID_FIELD": (grpc.StatusCode.INVALID_ARGUMENT, tidegate.InvalidArgument),
    "MESSAGE_TOO_LARGE": (grpc.StatusCode.INVALID_ARGUMENT, tidegate.InvalidArgument),
    "NOT_FOUND": (grpc.StatusCode.NOT_FOUND, tidegate.NotFound),
    "LEASE_LOST": (grpc.StatusCode.FAILED_PRECONDITION, tidegate.LeaseLost),
    "SUPERSEDED": (grpc.StatusCode.FAILED_PRECONDITION, tidegate.Superseded),
    "ALREADY_SEALED": (grpc.StatusCode.FAILED_PRECONDITION, tidegate.AlreadySealed),
    "QUOTA_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, tidegate.ResourceExhausted),
    "STORE_FULL": (grpc.StatusCode.RESOURCE_EXHAUSTED, tidegate.ResourceExhausted),
    "TOO_MANY_SUBSCRIBERS": (grpc.StatusCode.RESOURCE_EXHAUSTED, tidegate.ResourceExhausted),
    "STORE_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, tidegate.Unavailable),
    "DURABILITY_UNCONFIRMED": (grpc.StatusCode.UNAVAILABLE, tidegate.Unavailable),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, tidegate.Unavailable),
    "BAD_CREDENTIALS": (grpc.StatusCode.UNAUTHENTICATED, tidegate.Unauthenticated),
    "NOT_ALLOWED": (grpc.StatusCode.PERMISSION_DENIED, tidegate.PermissionDenied),
}


def read(answer: Failure) -> tidegate.TidegateError:
    trailer = grpc.aio.Metadata(("grpc-status-details-bin", answer.details), ("other", "x"))
    error = grpc.aio.AioRpcError(answer.code, None, trailer, answer.text)
    return errors.from_rpc_error(error, "gate:7460")


def test_every_reason_of_the_contract_has_its_class():
    names = {name.removeprefix("ERROR_REASON_") for name in types_pb2.ErrorReason.keys()}  # noqa: SIM118 - no dict
    assert set(CODES) == names - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", CODES)
def test_the_reason_decides_the_class(reason: str):
    code, kind = CODES[reason]
    error = read(failure(code, reason, "what happened"))
    assert type(error) is kind
    assert (error.reason, error.code, error.message) == (reason, code, "what happened")
    assert str(error) == "what happened"


def test_a_connection_that_breaks_amid_a_call_is_unavailable():
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, None, None, "Internal error from Core")
    error = errors.from_rpc_error(broken, "gate:7460")
    assert type(error) is tidegate.Unavailable
    assert error.code is grpc.StatusCode.UNAVAILABLE


def test_the_delay_that_the_server_asks_for_is_kept():
    error = read(
        failure(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after=timedelta(milliseconds=1500))
    )
    assert error.retry_after == timedelta(seconds=1.5)


def test_broken_fields_are_named():
    error = read(
        failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            fields={"policy.delay": "at most 1 h", "instance": "is empty"},
        )
    )
    assert error.fields == {"policy.delay": "at most 1 h", "instance": "is empty"}
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, tidegate.NotFound),
        (grpc.StatusCode.UNAVAILABLE, tidegate.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, tidegate.DeadlineExceeded),
        (grpc.StatusCode.FAILED_PRECONDITION, tidegate.ServerError),
        (grpc.StatusCode.INTERNAL, tidegate.ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, tidegate.ServerError),
    ],
)
@pytest.mark.parametrize("details", [b"", b"\xff\xff\xff", b"\x1a\x02\x0a\x00"])
def test_without_a_known_reason_the_code_decides(
    code: grpc.StatusCode, kind: type[tidegate.TidegateError], details: bytes
):
    error = read(Failure(code, "text", details))
    assert type(error) is kind
    assert (error.reason, error.code) == ("", code)


def test_a_reason_that_is_not_known_is_kept_and_the_code_decides():
    error = read(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "SOMETHING_NEW"))
    assert type(error) is tidegate.ResourceExhausted
    assert error.reason == "SOMETHING_NEW"


def test_a_reason_of_another_domain_is_not_ours():
    error = read(failure(grpc.StatusCode.INTERNAL, "LEASE_LOST", domain="proxy.example"))
    assert type(error) is tidegate.ServerError
    assert error.reason == ""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (grpc.StatusCode.UNAVAILABLE, "no Tidegate server answers at gate:7460: refused"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "the server at gate:7460 did not answer in time"),
        (grpc.StatusCode.UNIMPLEMENTED, "is it a recent Tidegate"),
        (grpc.StatusCode.INTERNAL, "refused"),
    ],
)
def test_a_failure_without_a_reason_is_a_sentence_too(code: grpc.StatusCode, sentence: str):
    assert sentence in str(read(Failure(code, "refused")))


def test_errors_can_be_pickled():
    error = read(failure(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", "gone"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is tidegate.LeaseLost
    assert vars(copy) == vars(error)
