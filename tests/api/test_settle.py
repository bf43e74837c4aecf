from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details

from tests.api.conftest import Rig
from tests.api.fake import text_body
from tests.api.status import failure
from tidegate.v1 import delivery_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.model import Batch, NackAction
from tidegate_server.errors import Superseded


@pytest.fixture
async def batch(rig: Rig) -> Batch:
    return await rig.engine.batch("ann", text_body("hello"))


def proof(batch: Batch, **fields: Any) -> dict[str, Any]:
    return {"batch_id": batch.info.batch_id, "lease_token": batch.token} | fields


async def test_an_ack_settles_and_its_repeat_says_so(rig: Rig, batch: Batch):
    request = rpc.AckBatchRequest(**proof(batch))
    first, again = await rig.delivery.AckBatch(request), await rig.delivery.AckBatch(request)
    assert (first.already_settled, again.already_settled) == (False, True)
    assert first.state == again.state == pb.BATCH_STATE_COMPLETED
    assert not rig.engine.only_if_current


async def test_only_if_current_reaches_the_store(rig: Rig, batch: Batch):
    await rig.delivery.AckBatch(rpc.AckBatchRequest(**proof(batch, only_if_current=True)))
    assert rig.engine.only_if_current


async def test_superseded_is_a_failed_precondition(rig: Rig, batch: Batch):
    rig.engine.failure = Superseded("newer messages arrived")
    failed = await failure(rig.delivery.AckBatch(rpc.AckBatchRequest(**proof(batch))))
    assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.reason == "SUPERSEDED"
    assert failed.details[details.PreconditionFailure].violations[0].type == "SUPERSEDED"


async def test_another_token_has_lost_the_lease(rig: Rig, batch: Batch):
    request = rpc.AckBatchRequest(**proof(batch, lease_token="another"))
    failed = await failure(rig.delivery.AckBatch(request))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")


async def test_settling_in_another_way_has_lost_the_lease(rig: Rig, batch: Batch):
    await rig.delivery.AckBatch(rpc.AckBatchRequest(**proof(batch)))
    failed = await failure(rig.delivery.NackBatch(rpc.NackBatchRequest(**proof(batch))))
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")


@pytest.mark.parametrize(
    ("number", "action", "state", "waits"),
    [
        (0, NackAction.RETRY, pb.BATCH_STATE_RETRY_SCHEDULED, True),
        (1, NackAction.RETRY, pb.BATCH_STATE_RETRY_SCHEDULED, True),
        (99, NackAction.RETRY, pb.BATCH_STATE_RETRY_SCHEDULED, True),
        (2, NackAction.RELEASE, pb.BATCH_STATE_RETRY_SCHEDULED, None),
        (3, NackAction.REBUFFER, pb.BATCH_STATE_REBUFFERED, False),
        (4, NackAction.DEAD_LETTER, pb.BATCH_STATE_DEAD_LETTERED, False),
    ],
)
async def test_a_nack_says_what_is_to_happen(
    rig: Rig, batch: Batch, number: int, action: NackAction, state: int, waits: bool | None
):
    request = rpc.NackBatchRequest(
        **proof(batch, action=number, reason="line 1\nline 2", retry_delay=Duration(nanos=1))
    )
    response = await rig.delivery.NackBatch(request)
    assert response.state == state
    assert not response.already_settled
    if waits is not None:
        assert response.HasField("next_attempt_at") == waits
    nacked = rig.engine.nacks.get_nowait()
    assert nacked == (batch.info.batch_id, action, "NACKED", "line 1\nline 2", 1)


@pytest.mark.parametrize(("given", "asked"), [(None, None), (Duration(seconds=600), 600_000)])
async def test_a_lease_is_extended(
    rig: Rig, batch: Batch, given: Duration | None, asked: int | None
):
    request = rpc.ExtendLeaseRequest(**proof(batch, lease_duration=given))
    response = await rig.delivery.ExtendLease(request)
    assert rig.engine.lease_ms == asked
    assert response.lease_expires_at.ToMilliseconds() >= batch.lease_expires_at_ms


@pytest.mark.parametrize("method", ["AckBatch", "NackBatch", "ExtendLease"])
@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"batch_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "batch_id"),
        ({"lease_token": ""}, grpc.StatusCode.INVALID_ARGUMENT, "lease_token"),
        ({"lease_token": "t" * 257}, grpc.StatusCode.INVALID_ARGUMENT, "lease_token"),
        ({"batch_id": "no-such-batch"}, grpc.StatusCode.NOT_FOUND, None),
        ({"batch_id": "b" * 5000}, grpc.StatusCode.NOT_FOUND, None),
        ({"batch_id": "a\nb é"}, grpc.StatusCode.NOT_FOUND, None),
    ],
)
async def test_what_names_no_lease_is_refused(
    rig: Rig,
    batch: Batch,
    method: str,
    change: dict[str, str],
    code: grpc.StatusCode,
    field: str | None,
):
    request = getattr(rpc, f"{method}Request")(**proof(batch, **change))
    failed = await failure(getattr(rig.delivery, method)(request))
    assert failed.code is code
    if field:
        assert failed.fields == [field]
    else:
        assert failed.details[details.ResourceInfo].resource_type == "batch"


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("NackBatch", {"reason": "r" * 1025}, "reason"),
        ("NackBatch", {"retry_delay": Duration(seconds=3601)}, "retry_delay"),
        ("NackBatch", {"retry_delay": Duration(seconds=-1)}, "retry_delay"),
        ("ExtendLease", {"lease_duration": Duration()}, "lease_duration"),
        ("ExtendLease", {"lease_duration": Duration(nanos=999_999_999)}, "lease_duration"),
        ("ExtendLease", {"lease_duration": Duration(seconds=601)}, "lease_duration"),
    ],
)
async def test_what_is_out_of_range_is_refused(
    rig: Rig, batch: Batch, method: str, fields: dict[str, Any], field: str
):
    request = getattr(rpc, f"{method}Request")(**proof(batch, **fields))
    failed = await failure(getattr(rig.delivery, method)(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == [field]
