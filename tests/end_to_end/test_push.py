"""Batches that are posted to an endpoint, by a server in a process of its own."""

import asyncio
import base64
from pathlib import Path
from typing import Any

from google.protobuf.json_format import Parse
from standardwebhooks import Webhook

from tests.end_to_end.traffic import window
from tests.support.endpoint import HANG, Reply, ScriptedEndpoint
from tests.support.servers import Server
from tests.support.stores import eventually
from tidegate import BatchState, Client
from tidegate.v1 import types_pb2

CANARY = "c4nary"
KEY = base64.b64encode(b"0123456789abcdefghijklmn").decode()
SECRET = f"whsec_{KEY}"
NOW = window(0)
GONE = "push endpoint is gone and switched off until the next start"


def pushing(tmp_path: Path, url: str, *lines: str, **settings: str) -> Server:
    """A server that pushes the instance "bot" to this URL."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    config = tmp_path / "tidegate.toml"
    config.write_text(
        "\n".join(
            [
                '[instances."bot".push]',
                f'url = "{url}"',
                f'token = "token-{CANARY}"',
                f'secret_file = "{secret}"',
                "allow_private = true",
                *lines,
            ]
        )
    )
    return Server(tmp_path / "server", config=str(config), retry_base="50ms", **settings)


async def counters(gate: Client) -> dict[str, Any]:
    return dict((await gate.stats()).counters)


async def test_a_batch_is_posted_as_the_contract_has_it(tmp_path: Path):
    async with (
        ScriptedEndpoint() as endpoint,
        pushing(tmp_path, endpoint.url) as server,
        Client(server.target) as gate,
    ):
        assert "http-push" in (await gate.server_info()).capabilities
        for text in ("Hello", "grüße"):
            await gate.add("bot", "ann", text, policy=window(0.2))
        await gate.add("bot", "bob", b"\x00\xff", policy=NOW)
        await eventually(lambda: len(endpoint.requests) == 2)
        bob, ann = endpoint.requests
        wire = Parse(ann.body, types_pb2.Batch())
        assert ann.batch_id == wire.info.batch_id == ann.batch["info"]["batchId"]
        assert [one.message.text for one in wire.messages] == ["Hello", "grüße"]
        assert wire.info.conversation.conversation == "ann"
        assert (wire.info.attempt, wire.info.max_attempts) == (1, 4)
        assert wire.lease_token
        assert Parse(bob.body, types_pb2.Batch()).messages[0].message.binary == b"\x00\xff"
        assert ann.headers["Authorization"] == f"Bearer token-{CANARY}"
        assert Webhook(SECRET).verify(ann.body, dict(ann.headers)) == ann.batch

        async def completed() -> bool:
            return (await gate.batch(ann.batch_id)).info.state is BatchState.COMPLETED

        await eventually(completed)


async def test_an_endpoint_that_fails_is_tried_again_and_then_leaves_a_dead_letter(tmp_path: Path):
    replies = [Reply(503, {"Retry-After": "0"}, f"body-{CANARY}"), Reply(404), HANG, Reply(302)]
    async with (
        ScriptedEndpoint(*replies) as endpoint,
        pushing(tmp_path, f"{endpoint.url}?key={CANARY}", 'timeout = "300ms"') as server,
        Client(server.target) as gate,
    ):
        await gate.add("bot", f"ann-{CANARY}", f"text-{CANARY}", policy=NOW)
        await eventually(lambda: len(endpoint.requests) == 4)

        async def is_dead() -> bool:
            return (await gate.stats()).dead_letters == 1

        await eventually(is_dead)
        details = await gate.batch(endpoint.requests[0].batch_id)
        reasons = [attempt.error_reason for attempt in details.attempts]
        assert reasons == ["HTTP_503", "HTTP_404", "TIMEOUT", "HTTP_302"]
        assert {attempt.subscriber_id for attempt in details.attempts} == {"bot"}
        assert len({request.batch_id for request in endpoint.requests}) == 1

        endpoint.then(204, 410)
        await gate.add("bot", "bob", "next", policy=NOW)
        await eventually(lambda: bool(server.logged("push endpoint works again")))
        await gate.add("bot", "bob", "last", policy=NOW)
        await eventually(lambda: len(server.logged(GONE)) == 1)
        numbers = await counters(gate)
        assert numbers["pushes_sent_total"] == 1
        assert numbers["pushes_failed_total"] == 5
        assert numbers["push_endpoints_gone_total"] == 1
        assert await server.health() == "SERVING"
        (batch,) = await gate.pull("bot")
        assert batch.messages[0].text == "last"
        await batch.ack()
        assert server.logged("push endpoint fails")[0]["why"] == "the endpoint answered 503"
        assert CANARY not in server.output()
        assert KEY not in server.output()


async def test_a_server_that_is_killed_in_the_middle_of_a_push_loses_nothing(tmp_path: Path):
    async with ScriptedEndpoint(HANG) as endpoint:
        server = pushing(tmp_path, endpoint.url, 'timeout = "1s"')
        async with server:
            async with Client(server.target) as gate:
                await gate.add("bot", "ann", "first", policy=NOW)
                await eventually(lambda: len(endpoint.requests) == 1)
                await gate.add("bot", "ann", "second", policy=NOW)
            await server.kill()
            await server.start()
            await eventually(lambda: len(endpoint.requests) == 3, within_s=15)
        first, again, second = endpoint.requests
        assert again.batch_id == first.batch_id != second.batch_id
        assert again.batch["messages"] == first.batch["messages"]
        assert second.batch["messages"][0]["message"]["text"] == "second"


async def test_a_server_that_is_told_to_stop_settles_what_it_has_pushed(tmp_path: Path):
    answering = asyncio.Event()
    async with ScriptedEndpoint(answering) as endpoint:
        server = pushing(tmp_path, endpoint.url)
        async with server, Client(server.target) as gate:
            await gate.add("bot", "ann", "first", policy=NOW)
            await eventually(lambda: len(endpoint.requests) == 1)
            ended = asyncio.create_task(server.terminate())
            await eventually(lambda: bool(server.logged("stopping")))
            answering.set()
            assert await ended == 0
            await server.start(http_listen="")
            async with Client(server.target) as later:
                info = (await later.batch(endpoint.requests[0].batch_id)).info
                assert (info.state, info.attempt) == (BatchState.COMPLETED, 1)
