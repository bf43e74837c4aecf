"""Requests that are too much: refused before they cost anything."""

import asyncio
import gzip
import io
import ssl
import sys
from pathlib import Path

import aiohttp
import grpc
import pytest

from tests.security.bomb import GIB, RawCall, memory, zeros
from tests.security.gate import ANNA, METHODS, Guests
from tests.support.secured import Papers, SecuredServer, Token
from tidegate.v1 import buffer_service_pb2 as buffer
from tidegate.v1 import types_pb2 as pb

ROOM = 50 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A megabyte that becomes a gigabyte."""
    made = zeros(GIB)
    assert len(made) < 2 << 20
    return made


@linux
@pytest.mark.parametrize("token", [ANNA.everything, Token("wr0ng")])
@pytest.mark.parametrize("method", ["AddMessage", "StreamMessages", "Subscribe"])
async def test_a_megabyte_that_becomes_a_gigabyte_is_refused(
    secured: SecuredServer, bomb: bytes, token: Token, method: str
):
    before = memory(secured.pid)
    call = await RawCall.open(secured.socket)
    answer = await asyncio.wait_for(
        call.send(
            f"/{METHODS[method].containing_service.full_name}/{method}",
            bomb,
            compressed=True,
            grpc_encoding="gzip",
            authorization=f"Bearer {token.value}",
        ),
        30,
    )
    assert b"grpc-status\x0212" in answer or b"grpc-status\x0216" in answer
    assert memory(secured.pid) - before < ROOM


@linux
async def test_a_bomb_over_http_is_refused(secured: SecuredServer, papers: Papers, bomb: bytes):
    before = memory(secured.pid)
    context = ssl.create_default_context(cafile=str(papers.ca))
    headers = {"Content-Encoding": "gzip"}
    for method in ("GET", "POST"):
        async with aiohttp.ClientSession() as session:
            try:
                url = f"{secured.http}/healthz"
                async with session.request(
                    method, url, data=io.BytesIO(bomb), headers=headers, ssl=context
                ) as got:
                    assert got.status in (200, 405, 413)
            except aiohttp.ClientError:
                pass  # it need not read to the end
    assert memory(secured.pid) - before < ROOM


def test_a_request_of_more_than_4_mib_is_refused(guests: Guests):
    message = pb.Message(id="m", binary=bytes(5 << 20))
    request = buffer.AddMessageRequest(instance="mine", conversation="ann", message=message)
    answer = guests.call("AddMessage", request, ANNA.everything)
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_headers_that_are_too_long_are_refused(guests: Guests):
    answer = guests.call("GetServerInfo", token=Token("x" * (64 << 10)))
    assert answer.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


async def test_http_headers_that_are_too_long_are_refused(secured: SecuredServer, papers: Papers):
    context = ssl.create_default_context(cafile=str(papers.ca))
    headers = {"Authorization": "x" * (64 << 10)}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{secured.http}/metrics", headers=headers, ssl=context) as got,
    ):
        assert got.status == 400


def test_the_bomb_is_one(tmp_path: Path):
    assert gzip.decompress(zeros(4 << 20)) == bytes(4 << 20)
