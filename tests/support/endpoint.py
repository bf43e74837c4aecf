"""An endpoint for pushes that answers as a test has written down."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

HANG, CLOSE = 0, -1
"""Answers that are none: keep the request, or cut the connection."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str = ""


@dataclass(frozen=True)
class Pushed:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def batch(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def batch_id(self) -> str:
        return self.headers["webhook-id"]


Answer = Reply | int | asyncio.Event


class ScriptedEndpoint:
    """Answers each request by the next of `script`, and those after the last by `otherwise`.

    An event in it is waited for, and then answered as `otherwise`.

    `async with` serves on a free port of 127.0.0.1.
    """

    def __init__(self, *script: Answer, otherwise: int = 204):
        self.requests: list[Pushed] = []
        self._script = list(script)
        self._otherwise = otherwise
        self._end = asyncio.Event()
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/batches"

    def then(self, *script: Answer) -> None:
        """More answers."""
        self._script += script

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Pushed(request.path, dict(request.headers), body))
        reply = self._script.pop(0) if self._script else self._otherwise
        if reply == CLOSE:
            assert request.transport
            request.transport.abort()
        if reply in (HANG, CLOSE):
            await self._end.wait()
        if isinstance(reply, asyncio.Event):
            await reply.wait()
            reply = self._otherwise
        reply = reply if isinstance(reply, Reply) else Reply(max(reply, 200))
        return web.Response(status=reply.status, headers=reply.headers, text=reply.body or None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await self._runner.cleanup()
