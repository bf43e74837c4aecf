import base64
import json
from typing import Any

import grpc
import pytest

from tests.api.conftest import Rig
from tests.api.fake import text_body
from tests.api.house import FACTS
from tests.api.status import failure
from tidegate.v1 import admin_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.core.model import NackAction


async def bury(rig: Rig, *names: str) -> list[str]:
    ids: list[str] = []
    for name in names:
        batch = await rig.engine.batch(name, text_body(name))
        await rig.engine.store.nack(batch.info.batch_id, batch.token, NackAction.DEAD_LETTER)
        ids.append(batch.info.batch_id)
    return ids


async def test_the_server_says_what_it_is(rig: Rig):
    info = await rig.admin.GetServerInfo(rpc.GetServerInfoRequest())
    assert (info.version, info.replica_id) == (FACTS.version, FACTS.replica_id)
    assert info.started_at.ToMilliseconds() == FACTS.started_at_ms
    assert info.default_policy.delay.seconds == 8
    assert info.default_policy.mode == pb.WINDOW_MODE_FIXED
    assert (info.max_message_bytes, info.max_attempts) == (1000, 4)
    assert (info.durability, info.store) == (FACTS.durability, FACTS.store)
    assert info.capabilities == ["policy-override"]
    assert not info.draining
    rig.engine.draining = True
    assert (await rig.admin.GetServerInfo(rpc.GetServerInfoRequest())).draining


async def test_stats_are_gauges_of_the_store_and_counters_of_the_replica(rig: Rig):
    await bury(rig, "ann")
    await rig.engine.batch("bob", text_body("hello"))
    rig.metrics.added = 7
    stats = await rig.admin.GetStats(rpc.GetStatsRequest())
    assert (stats.dead_letters, stats.delivering_batches, stats.open_buffers) == (1, 1, 0)
    assert stats.counters["messages_added_total"] == 7
    other = await rig.admin.GetStats(rpc.GetStatsRequest(instance="other"))
    assert other.dead_letters == 0
    failed = await failure(rig.admin.GetStats(rpc.GetStatsRequest(instance="a b")))
    assert failed.fields == ["instance"]


async def test_dead_letters_are_listed_page_by_page_newest_first(rig: Rig):
    ids = await bury(rig, "a", "b", "c", "d", "e")
    seen: list[str] = []
    token, pages = "", 0
    while not pages or token:
        page = await rig.admin.ListDeadLetters(
            rpc.ListDeadLettersRequest(page_size=2, page_token=token)
        )
        assert all(info.state == pb.BATCH_STATE_DEAD_LETTERED for info in page.batches)
        seen += [info.batch_id for info in page.batches]
        token, pages = page.next_page_token, pages + 1
    assert pages == 3
    assert sorted(seen) == sorted(ids)


async def test_a_page_that_holds_the_last_one_has_no_next(rig: Rig):
    await bury(rig, "a", "b")
    page = await rig.admin.ListDeadLetters(rpc.ListDeadLettersRequest(page_size=2))
    assert len(page.batches) == 2
    assert not page.next_page_token


async def test_page_sizes_above_500_are_taken_as_500(rig: Rig):
    await bury(rig, "a")
    page = await rig.admin.ListDeadLetters(rpc.ListDeadLettersRequest(page_size=2**31 - 1))
    assert len(page.batches) == 1


async def first_token(rig: Rig) -> str:
    await bury(rig, "a", "b")
    page = await rig.admin.ListDeadLetters(rpc.ListDeadLettersRequest(page_size=1))
    return page.next_page_token


@pytest.mark.parametrize("change", [{"page_size": 2}, {"instance": "bot"}])
async def test_the_next_page_must_be_asked_for_in_the_same_way(rig: Rig, change: dict[str, Any]):
    token = await first_token(rig)
    fields: dict[str, Any] = {"page_size": 1, "page_token": token, **change}
    failed = await failure(rig.admin.ListDeadLetters(rpc.ListDeadLettersRequest(**fields)))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["page_token"]


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "é",
        "A" * 5000,
        *(
            base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
            for place in (
                [],
                {},
                1,
                None,
                [1, "", "5", "x"],
                [1, "", 5],
                [1, "", 2**60, "x"],
                [1, "", 5, "\ud800"],
            )
        ),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"\xff").decode(),
    ],
)
async def test_a_page_token_of_another_make_is_refused(rig: Rig, token: str):
    request = rpc.ListDeadLettersRequest(page_size=1, page_token=token)
    failed = await failure(rig.admin.ListDeadLetters(request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ["page_token"]


@pytest.mark.parametrize(
    ("fields", "field"), [({"page_size": -1}, "page_size"), ({"instance": "\n"}, "instance")]
)
async def test_a_bad_list_request_is_refused(rig: Rig, fields: dict[str, Any], field: str):
    failed = await failure(rig.admin.ListDeadLetters(rpc.ListDeadLettersRequest(**fields)))
    assert failed.fields == [field]


async def test_a_batch_is_shown_with_its_messages_and_attempts(rig: Rig):
    (batch_id,) = await bury(rig, "ann")
    shown = await rig.admin.GetBatch(rpc.GetBatchRequest(batch_id=batch_id))
    assert shown.batch.state == pb.BATCH_STATE_DEAD_LETTERED
    assert shown.messages[0].message.text == "ann"
    (attempt,) = shown.attempts
    assert (attempt.number, attempt.subscriber_id) == (1, "worker")
    assert attempt.channel == pb.DELIVERY_CHANNEL_STREAM
    assert attempt.HasField("ended_at")


async def test_a_message_that_cannot_be_read_is_shown_by_its_place(rig: Rig):
    batch = await rig.engine.batch("ann", text_body("fine"), b"\xff")
    shown = await rig.admin.GetBatch(rpc.GetBatchRequest(batch_id=batch.info.batch_id))
    assert shown.messages[0].message.text == "fine"
    assert shown.messages[1].sequence == batch.messages[1].sequence
    assert not shown.messages[1].HasField("message")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("no-such-batch", grpc.StatusCode.NOT_FOUND),
        ("+49 170 1", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_batch_that_is_not_known_is_not_found(rig: Rig, name: str, code: grpc.StatusCode):
    failed = await failure(rig.admin.GetBatch(rpc.GetBatchRequest(batch_id=name)))
    assert failed.code is code
    assert "+49" not in failed.text
