"""A real server gets requests that no client would send."""

import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests.fuzz import wire
from tests.fuzz.dice import Dice
from tests.support.servers import Server
from tests.support.stores import StoreProcess

Code = grpc.StatusCode
GIVEN_UP = {Code.OK, Code.DEADLINE_EXCEEDED, Code.CANCELLED}
ALLOWED = GIVEN_UP | {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
}
CHANGES_NOTHING = {Code.INVALID_ARGUMENT, Code.NOT_FOUND}
TIMES = 15


@pytest.fixture
async def store(tmp_path: Path):
    async with StoreProcess(enable_debug_command="yes") as process:
        yield process


@pytest.fixture
async def server(store: StoreProcess, tmp_path: Path):
    server = Server(
        tmp_path, store_url=store.user_url, http_listen="127.0.0.1:0", window_delay="1h"
    )
    async with server:
        yield server
        assert server.running
        assert await server.health() == "SERVING"
        assert "Traceback" not in server.output()
        assert not [line for line in server.output().splitlines() if '"level": "error"' in line]


class Caller:
    """Sends raw bytes over a channel, and looks at the answer as a client would."""

    def __init__(self, channel: grpc.Channel):
        self._channel = channel

    def call(self, method: MethodDescriptor, raw: bytes) -> grpc.StatusCode:
        """The status. What the contract promises of an error is checked."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.client_streaming:
                call = self._channel.stream_stream(path)(iter([raw]), timeout=2)
                list(call)
            elif method.server_streaming:
                call = self._channel.unary_stream(path)(raw, timeout=0.1)
                next(call, None)
                call.cancel()
            else:
                self._channel.unary_unary(path)(raw, timeout=0.1 if method.name == "Pull" else 2)
        except grpc.RpcError as error:
            _check(method, error)
            return error.code()
        return Code.OK


def _check(method: MethodDescriptor, error: Any) -> None:
    assert error.code() in ALLOWED, f"{method.name}: {error}"
    if error.code() in GIVEN_UP:
        return
    trailer = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailer["grpc-status-details-bin"])
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, bool(info.reason)) == ("tidegate", True)


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    with grpc.insecure_channel(server.target) as channel:
        yield Caller(channel)


async def test_any_request_has_an_answer_of_the_contract_and_a_refused_one_changes_nothing(
    store: StoreProcess, caller: Caller
):
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    codes = Counter[grpc.StatusCode]()
    async with store.client() as client:
        for method in wire.METHODS * TIMES:
            before = await client.execute_command("DEBUG", "DIGEST")
            raw = wire.request(Dice(dice.randbytes(dice.choice((4, 30, 300)))), method)
            code = caller.call(method, raw)
            codes[code] += 1
            if code in CHANGES_NOTHING and not method.server_streaming:
                after = await client.execute_command("DEBUG", "DIGEST")
                assert before == after, f"{method.name} was refused and changed the store"
    assert codes[Code.OK] > TIMES
    assert codes[Code.INVALID_ARGUMENT] > TIMES


def _sends(dice: random.Random) -> bytes:
    proper = b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    kind = dice.randrange(4)
    if kind == 0:
        return dice.randbytes(dice.randrange(200))
    if kind == 1:
        return b"GET /" + dice.randbytes(dice.randrange(100)) + b" HTTP/1.1\r\n\r\n"
    if kind == 2:
        return b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * dice.choice((1, 99, 40_000)) + b"\r\n"
    return Dice(dice.randbytes(20)).mutated(proper)


async def test_any_bytes_on_the_http_port_leave_the_server_well(server: Server):
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    port = int(server.http.rpartition(":")[2])
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            _exchange(connection, _sends(dice))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        assert b" 200 OK" in _exchange(connection, b"GET /healthz HTTP/1.0\r\n\r\n", hang_up=False)


def _exchange(connection: socket.socket, sent: bytes, *, hang_up: bool = True) -> bytes:
    try:
        connection.sendall(sent)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""
