import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp.connector
import pytest
from aiohttp import ThreadedResolver
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.endpoint import CLOSE, HANG, Reply, ScriptedEndpoint
from tidegate_server.config.addresses import is_public
from tidegate_server.sinks.http import HttpEndpoint
from tidegate_server.sinks.outcome import LONGEST_WAIT_MS, Outcome, Verdict, of_status

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEYS = (b"k" * 24, b"n" * 32)
BODY = '{"text": "grüße"}'.encode()

FORBIDDEN = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:a00:1",
    "2002:7f00:1::",
    "2001:0:1:2:3:4:80ff:fffe",
    "64:ff9b::10.0.0.1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@asynccontextmanager
async def sender(
    url: str, *, token: str = "", keys: tuple[bytes, ...] = (), allow_private: bool = True
) -> AsyncGenerator[HttpEndpoint]:
    endpoint = HttpEndpoint(url, token=token, keys=keys, allow_private=allow_private)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def pushed(*script: Reply | int, timeout_s: float = 5) -> tuple[Outcome, int]:
    """The outcome of one push to an endpoint with this script, and the requests that it had."""
    async with ScriptedEndpoint(*script) as there, sender(there.url) as endpoint:
        return await endpoint.send("b1", BODY, timeout_s=timeout_s), len(there.requests)


@pytest.mark.parametrize(
    ("status", "verdict", "waits"),
    [
        *((status, Verdict.ACK, False) for status in (200, 201, 202, 204, 299)),
        *((status, Verdict.RETRY, True) for status in (408, 425, 429, 500, 502, 503, 599)),
        *((status, Verdict.RETRY, False) for status in (300, 301, 302, 304, 307, 308)),
        *((status, Verdict.RETRY, False) for status in (400, 401, 403, 404, 409, 413, 422)),
        (410, Verdict.GONE, False),
    ],
)
def test_each_status_has_its_verdict(status: int, verdict: Verdict, waits: bool):
    outcome = of_status(status, "7", NOW)
    assert outcome.verdict is verdict
    assert outcome.reason == ("" if verdict is Verdict.ACK else f"HTTP_{status}")
    assert outcome.retry_after_ms == (7_000 if waits else 0)


@pytest.mark.parametrize(
    ("written", "wait_ms"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("120", 120_000),
        (" 120 ", 120_000),
        ("3601", LONGEST_WAIT_MS),
        ("9" * 400, LONGEST_WAIT_MS),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٣", 0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90_000),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), LONGEST_WAIT_MS),
        ("Tue, 01 Jan 2030 00:00:30 -0000", 30_000),
        ("Tue, 99 Jan 2030 00:00:30 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour(written: str | None, wait_ms: int):
    assert of_status(503, written, NOW).retry_after_ms == wait_ms


async def test_a_push_carries_body_token_and_signatures():
    async with (
        ScriptedEndpoint() as there,
        sender(there.url + "?k=1", token="t0ken", keys=KEYS) as endpoint,
    ):
        outcome = await endpoint.send("b1", BODY, timeout_s=5)
    (request,) = there.requests
    assert outcome == Outcome(Verdict.ACK)
    assert (request.path, request.body, request.batch_id) == ("/batches", BODY, "b1")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == "Bearer t0ken"
    headers = dict(request.headers)
    for key in KEYS:
        assert Webhook(key).verify(request.body, headers) == {"text": "grüße"}
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(request.body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(b"another key").verify(request.body, headers)


async def test_without_token_and_keys_neither_is_sent():
    async with ScriptedEndpoint() as there, sender(there.url) as endpoint:
        await endpoint.send("b1", BODY, timeout_s=5)
    assert not {"Authorization", "webhook-signature"} & set(there.requests[0].headers)


async def test_a_redirect_is_not_followed():
    async with ScriptedEndpoint() as other:
        there = Reply(307, {"Location": other.url})
        outcome, requests = await pushed(there)
        assert (outcome.verdict, outcome.reason) == (Verdict.RETRY, "HTTP_307")
        assert (requests, other.requests) == (1, [])


async def test_an_endpoint_that_does_not_answer_in_time_has_timed_out():
    outcome, requests = await pushed(HANG, timeout_s=0.1)
    assert (outcome.verdict, outcome.reason, requests) == (Verdict.RETRY, "TIMEOUT", 1)


async def test_a_connection_that_breaks_is_tried_again_within_the_push():
    outcome, requests = await pushed(CLOSE, 200)
    assert (outcome, requests) == (Outcome(Verdict.ACK), 2)


async def test_a_connection_that_breaks_again_and_again_has_failed():
    outcome, requests = await pushed(*[CLOSE] * 9)
    assert (outcome.verdict, outcome.reason, requests) == (Verdict.RETRY, "CONNECT", 3)


async def test_nobody_there_is_a_failure_to_connect():
    async with ScriptedEndpoint() as there:
        url = there.url
    async with sender(url) as endpoint:
        outcome = await endpoint.send("b1", BODY, timeout_s=5)
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRY, "CONNECT")
    assert "refused" in outcome.message


@asynccontextmanager
async def raw_server(answer: bytes, *, read: int = 1) -> AsyncGenerator[str]:
    """A server that reads a little, answers these bytes and then keeps the connection."""
    end = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(read)
        writer.write(answer)
        await end.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        end.set()


async def test_an_answer_counts_before_its_body_is_there_and_before_ours_is_taken():
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nonly this"
    async with raw_server(answer) as url, sender(url) as endpoint:
        async with asyncio.timeout(5):
            outcome = await endpoint.send("b1", b"x" * (16 << 20), timeout_s=30)
    assert outcome.verdict is Verdict.ACK


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n"])
async def test_an_answer_that_is_no_http_is_a_failure(answer: bytes):
    async with raw_server(answer) as url, sender(url) as endpoint:
        outcome = await endpoint.send("b1", BODY, timeout_s=5)
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRY, "CONNECT")


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_is_not_of_the_open_internet_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_of_the_open_internet_is_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0", "localhost"]
)
async def test_a_private_address_is_not_connected_to_however_it_is_written(host: str):
    async with ScriptedEndpoint() as there:
        url = there.url.replace("127.0.0.1", host)
        async with sender(url, allow_private=False) as endpoint:
            outcome = await endpoint.send("b1", BODY, timeout_s=5)
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRY, "CONNECT")
    assert there.requests == []


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1"])
async def test_a_name_is_judged_by_the_address_that_it_leads_to(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    class Resolver(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ):
            return await super().resolve(address, port, socket.AF_UNSPEC)

    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", Resolver)
    async with ScriptedEndpoint() as there:
        url = there.url.replace("127.0.0.1", "bot.example")
        async with sender(url, allow_private=False) as endpoint:
            outcome = await endpoint.send("b1", BODY, timeout_s=5)
    assert (outcome.reason, there.requests) == ("CONNECT", [])
    assert f"{address} is no public address" in outcome.message


async def test_a_name_may_lead_to_a_private_address_where_that_is_allowed():
    async with (
        ScriptedEndpoint() as there,
        sender(there.url.replace("127.0.0.1", "localhost")) as endpoint,
    ):
        assert (await endpoint.send("b1", BODY, timeout_s=5)).verdict is Verdict.ACK


async def test_a_name_that_is_not_known_is_a_failure_to_connect():
    async with sender("https://bot.invalid/") as endpoint:
        outcome = await endpoint.send("b1", BODY, timeout_s=5)
    assert outcome.message.endswith("its name is not known")


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch):
    async with ScriptedEndpoint() as there, ScriptedEndpoint() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with sender(there.url) as endpoint:
            await endpoint.send("b1", BODY, timeout_s=5)
        assert (len(there.requests), proxy.requests) == (1, [])
