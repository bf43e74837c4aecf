"""The blocking client against grpcio-testing's fake channel: no server, no network."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc_testing
import pytest
from google.protobuf.message import Message

from tests.support.fake_gate import batch, failure
from tidegate import NotFound, ServerError
from tidegate.blocking import Client
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import delivery_service_pb2 as delivery_pb2

Result = TypeVar("Result")


class Desk:
    """Takes the calls of a client that runs in another thread, and answers them."""

    def __init__(self) -> None:
        files = (buffer_pb2, delivery_pb2, admin_pb2)
        self._services = [s for f in files for s in f.DESCRIPTOR.services_by_name.values()]
        self.channel: Any = grpc_testing.channel(self._services, grpc_testing.strict_real_time())
        self._pool = ThreadPoolExecutor(1)

    def begin(self, work: Callable[[], Result]) -> "Future[Result]":
        return self._pool.submit(work)

    def answer(
        self,
        method: str,
        response: Message | None,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        trailer: tuple[tuple[str, bytes], ...] = (),
    ) -> tuple[dict[str, str], Any]:
        found = [m for s in self._services for m in s.methods if m.name == method]
        metadata, request, rpc = self.channel.take_unary_unary(found[0])
        rpc.send_initial_metadata(())
        rpc.terminate(response, trailer, code, "a sentence")
        return dict(metadata), request

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def desk() -> Iterator[Desk]:
    taking = Desk()
    yield taking
    taking.close()


@pytest.fixture
def client(desk: Desk) -> Client:
    return Client(channel=desk.channel, token="s3cret")


def test_add_sends_the_message_and_the_token(desk: Desk, client: Client):
    call = desk.begin(lambda: client.add("bot", "+49170", "hello", message_id="m1"))
    metadata, request = desk.answer(
        "AddMessage", buffer_pb2.AddMessageResponse(success=True, message_id="m1", sequence=3)
    )
    assert call.result().sequence == 3
    assert request.message.text == "hello"
    assert metadata["authorization"] == "Bearer s3cret"


def test_status_and_flush_select_the_conversation(desk: Desk, client: Client):
    status = desk.begin(lambda: client.status("bot", "+49170"))
    _, request = desk.answer("GetStatus", buffer_pb2.GetStatusResponse())
    assert status.result().buffer is None
    assert (request.conversation.instance, request.conversation.conversation) == ("bot", "+49170")

    flush = desk.begin(lambda: client.flush("bot", "+49170"))
    desk.answer("Flush", buffer_pb2.FlushResponse(flushed=True))
    assert flush.result().flushed


def test_a_pulled_batch_is_settled(desk: Desk, client: Client):
    pull = desk.begin(lambda: client.pull("bot", wait=timedelta(0)))
    desk.answer("Pull", delivery_pb2.PullResponse(batches=[batch("b1")]))
    (pulled,) = pull.result()

    ack = desk.begin(pulled.ack)
    desk.answer("AckBatch", delivery_pb2.AckBatchResponse(already_settled=True))
    assert ack.result() is False

    nack = desk.begin(pulled.nack)
    desk.answer("NackBatch", delivery_pb2.NackBatchResponse())
    assert nack.result() is True

    extend = desk.begin(pulled.extend)
    response = delivery_pb2.ExtendLeaseResponse()
    response.lease_expires_at.FromSeconds(1_000)
    desk.answer("ExtendLease", response)
    assert extend.result().timestamp() == 1_000


def test_the_operator_side_is_read(desk: Desk, client: Client):
    info = desk.begin(client.server_info)
    desk.answer("GetServerInfo", admin_pb2.GetServerInfoResponse(version="1.2.3"))
    assert info.result().version == "1.2.3"

    stats = desk.begin(client.stats)
    desk.answer("GetStats", admin_pb2.GetStatsResponse(dead_letters=2))
    assert stats.result().dead_letters == 2

    page = admin_pb2.ListDeadLettersResponse()
    page.batches.add(batch_id="b1")
    letters = desk.begin(lambda: list(client.dead_letters()))
    desk.answer("ListDeadLetters", page)
    assert [info.batch_id for info in letters.result()] == ["b1"]

    details = desk.begin(lambda: client.batch("b1"))
    desk.answer("GetBatch", admin_pb2.GetBatchResponse(messages=batch().messages))
    assert [message.text for message in details.result().messages] == ["hello"]


def test_errors_are_of_the_tree(desk: Desk, client: Client):
    answer = failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    call = desk.begin(lambda: client.batch("nobody"))
    desk.answer("GetBatch", None, answer.code, (("grpc-status-details-bin", answer.details),))
    with pytest.raises(NotFound, match="a sentence") as caught:
        call.result()
    assert caught.value.reason == "NOT_FOUND"

    again = desk.begin(lambda: client.batch("b1"))
    desk.answer("GetBatch", None, grpc.StatusCode.INTERNAL)
    with pytest.raises(ServerError, match="a sentence"):
        again.result()
