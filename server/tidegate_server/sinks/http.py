"""Pushes a batch to an endpoint: one POST, signed as Standard Webhooks has it."""

import asyncio
import base64
import hashlib
import hmac
import io
import os
import socket
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from tidegate_server.config.addresses import is_public
from tidegate_server.sinks.outcome import Outcome, not_connected, of_status, timed_out

_AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
_RETRYING = AsyncRetrying(
    retry=retry_if_exception_type(aiohttp.ClientConnectionError),
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(0.1, max=1),
    reraise=True,
)


class HttpEndpoint:
    """An endpoint that takes batches by POST. It sends through no proxy and follows no redirect.

    `token` is sent as bearer; each of `keys` gives a signature. Without `allow_private` only
    public addresses are connected to, whatever the URL or the name in it says. To be made inside
    the event loop, and closed.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        keys: Sequence[bytes] = (),
        allow_private: bool = False,
        agent: str = "tidegate",
    ):
        self._url = url
        self._keys = keys
        headers = {"content-type": "application/json", "user-agent": agent}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            # At the socket: the last place, behind names, their changes, and odd ways to write one.
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=None if allow_private else _public_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def send(self, batch_id: str, body: bytes, *, timeout_s: float) -> Outcome:
        """Push one batch. A connection that fails is tried again within `timeout_s`.

        An answer counts as soon as its head is there; what comes behind is never read.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await _RETRYING(self._post, batch_id, body)
        except TimeoutError:
            return timed_out(timeout_s)
        except aiohttp.ClientError as error:
            return not_connected(_why(error))

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _post(self, batch_id: str, body: bytes) -> Outcome:
        headers = signed(batch_id, int(time.time()), body, keys=self._keys)
        async with self._session.post(
            self._url, data=io.BytesIO(body), headers=headers, allow_redirects=False
        ) as response:
            retry_after = response.headers.get("Retry-After")
            return of_status(response.status, retry_after, datetime.now(UTC))


def signed(batch_id: str, at_s: int, body: bytes, *, keys: Iterable[bytes]) -> dict[str, str]:
    """The headers of Standard Webhooks; without keys there is no signature."""
    headers = {"webhook-id": batch_id, "webhook-timestamp": str(at_s)}
    content = f"{batch_id}.{at_s}.".encode() + body
    digests = [hmac.new(key, content, hashlib.sha256).digest() for key in keys]
    if digests:
        signatures = (f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
        headers["webhook-signature"] = " ".join(signatures)
    return headers


def _public_socket(found: _AddressInfo) -> socket.socket:
    """A socket for an address that may be connected to, else `PermissionError`."""
    family, kind, protocol, _, address = found
    host = str(address[0])
    if not is_public(host):
        raise PermissionError(f"{host} is no public address, and allow_private is not set")
    return socket.socket(family, kind, protocol)


def _why(error: aiohttp.ClientError) -> str:
    """The cause without the URL, which may hold a secret."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorDNSError():
            return "its name is not known"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return os.strerror(number) if number else str(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientOSError():
            return error.strerror or "the connection broke"
        case _:
            return "its answer is no HTTP"
