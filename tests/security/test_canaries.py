"""What must stay secret is planted everywhere, and looked for in all that comes out."""

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.security.gate import METHODS
from tests.support.endpoint import CLOSE, Reply, ScriptedEndpoint
from tests.support.secured import Papers, SecuredServer, Token
from tests.support.stores import StoreProcess, eventually
from tidegate import Client, NackAction, models
from tidegate_server.config import Push, Settings
from tidegate_server.core import model
from tidegate_server.store.connect import Address

PAYLOAD, PHONE = "c4nary-payload", "c4nary-+15550100"
TOKEN, UNKNOWN, LEASE = Token("c4nary-token"), Token("c4nary-unknown"), "c4nary-lease"
PASSWORD, PUSH_TOKEN = "c4nary-password", "c4nary-push-token"
PUSH_SECRET = base64.b64encode(b"c4nary-push-secret-of-24").decode()
SECRETS = ("c4nary", "15550100", PUSH_SECRET)
NAMES = "n4me"
"""An id may be named to who gave it, and nowhere else."""

INSTANCE, PUSHED = "bot", "pushed"


def fill(message: Message) -> Message:
    """Put a secret, or a name, into every field that takes text."""
    places: Any = message.DESCRIPTOR.fields
    for place in places:
        if place.message_type and place.message_type.GetOptions().map_entry:
            getattr(message, place.name)[PAYLOAD] = PAYLOAD
        elif place.type == FieldDescriptor.TYPE_MESSAGE:
            there: Any = getattr(message, place.name)
            many = place.is_repeated
            if place.message_type.full_name.startswith("tidegate."):
                fill(there.add() if many else there)
        elif place.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            _put(message, place)
    return message


def _put(message: Message, place: Any) -> None:
    known = {"instance": INSTANCE, "instances": INSTANCE, "conversation": PHONE}
    known |= {"text": PAYLOAD, "content_type": PAYLOAD, "lease_token": LEASE, "reason": PAYLOAD}
    text = known.get(place.name, NAMES)
    if place.is_repeated:
        getattr(message, place.name).append(text)
    elif place.name != "binary":
        setattr(message, place.name, text)


@dataclass
class Spy:
    """Calls everything, and keeps what failures say."""

    channel: grpc.aio.Channel
    heard: list[str] = field(default_factory=list[str])
    failed: set[str] = field(default_factory=set[str])

    async def ask(self, name: str, body: bytes, token: Token | None) -> None:
        method = METHODS[name]
        path = f"/{method.containing_service.full_name}/{name}"
        metadata = token.metadata if token else ()
        call: Any = self.channel.stream_stream(path)(iter([body]), metadata=metadata, timeout=2)
        if name in ("Subscribe", "WatchEvents", "Pull"):
            asyncio.get_running_loop().call_later(0.1, call.cancel)
        try:
            await call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            self.failed.add(name)
        if await call.code() is not grpc.StatusCode.OK:
            self.heard.append(f"{name} {await call.details()} {await call.trailing_metadata()}")


def requests(name: str) -> list[bytes]:
    """Of one RPC: as it should be, nearly, with secrets in the wrong places, and rubbish."""
    kind: Any = GetMessageClass(METHODS[name].input_type)
    whole = fill(kind())
    wrong = kind.FromString(whole.SerializeToString())
    _spoil(wrong)
    rubbish = b"\xff" + PAYLOAD.encode()
    return [whole.SerializeToString(), wrong.SerializeToString(), rubbish]


def _spoil(message: Message) -> None:
    """Make every text one that no field takes."""
    listed: Any = message.ListFields()
    for place, value in listed:
        if place.type == FieldDescriptor.TYPE_MESSAGE:
            if not (place.message_type.GetOptions().map_entry):
                for inner in value if place.is_repeated else [value]:
                    _spoil(inner)
        elif place.type == FieldDescriptor.TYPE_STRING and not place.is_repeated:
            setattr(message, place.name, f"{value}\n{PAYLOAD}" * 200)


@asynccontextmanager
async def watched_server(
    tmp_path: Path, store: StoreProcess, endpoint: ScriptedEndpoint
) -> AsyncGenerator[SecuredServer]:
    """A server at debug with a secret wherever one can be."""
    papers = Papers(tmp_path / "papers")
    papers.admit(TOKEN)
    config = tmp_path / "tidegate.toml"
    config.write_text(
        f'[instances."{PUSHED}".push]\nurl = "{endpoint.url}?key={PAYLOAD}"\nallow_private = true\n'
        f'token = "{PUSH_TOKEN}"\nsecret = "whsec_{PUSH_SECRET}"\n'
    )
    async with store.client() as client:
        await client.execute_command(
            "ACL", "SETUSER", "spy", "on", f">{PASSWORD}", "~*", "&*", "+@all"
        )
    url = store.url.replace("unix://", f"unix://spy:{PASSWORD}@")
    settings = {"store_url": url, "config": str(config), "log_level": "debug"}
    settings |= {
        "window_delay": "0s",
        "window_grace": "0s",
        "retry_base": "10ms",
        "store_timeout": "200ms",
    }
    async with SecuredServer(tmp_path / "s", papers, client_ca=False, **settings) as server:
        yield server


async def live(gate: Client, store: StoreProcess) -> None:
    """What goes well, and what goes wrong in the middle."""
    for action in (NackAction.RETRY, NackAction.REBUFFER, NackAction.DEAD_LETTER):
        await gate.add(INSTANCE, PHONE, PAYLOAD, attributes={PAYLOAD: PAYLOAD})
        (batch,) = await gate.pull(INSTANCE)
        assert PAYLOAD not in repr(batch)
        assert PHONE not in repr(batch)
        await batch.nack(action, reason=PAYLOAD)
    await gate.add(INSTANCE, PHONE, PAYLOAD)
    async with store.client() as client:
        rows: Any = await client.keys(f"*:m:{INSTANCE}/*")
        for row in rows:
            await client.execute_command("LSET", row, 0, f"{PAYLOAD} {PHONE}")
    await gate.pull(INSTANCE, wait=timedelta(seconds=1))
    await gate.add(PUSHED, PHONE, PAYLOAD)


async def scrape(server: SecuredServer, token: Token) -> str:
    papers: Any = aiohttp.TCPConnector(ssl=False)
    async with (
        aiohttp.ClientSession(connector=papers) as session,
        session.get(f"{server.http}/metrics?{PAYLOAD}", headers=dict(token.metadata)) as answer,
    ):
        return await answer.text()


async def send_rubbish(server: SecuredServer) -> None:
    """A request over HTTP that cannot be read."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = server.http.removeprefix("https://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(f"GET /{PAYLOAD} HTTP/1.1\r\nAuthorization: {TOKEN.value}\x00\r\n\r\n".encode())
    await reader.read(10)
    writer.close()


async def test_nothing_secret_comes_out(tmp_path: Path):
    async with (
        StoreProcess() as store,
        ScriptedEndpoint(Reply(500, body=PAYLOAD), CLOSE, Reply(404), otherwise=503) as endpoint,
        watched_server(tmp_path, store, endpoint) as server,
        grpc.aio.insecure_channel(server.socket) as channel,
        Client(server.socket, token=TOKEN.value) as gate,
    ):
        spy = Spy(channel)
        await live(gate, store)
        await eventually(lambda: len(endpoint.requests) >= 4)
        tokens = (TOKEN, UNKNOWN, None)
        asked = [
            (name, body, token) for name in METHODS for body in requests(name) for token in tokens
        ]
        await asyncio.gather(*(spy.ask(*question) for question in asked))
        scraped = [await scrape(server, token) for token in (TOKEN, UNKNOWN)]
        await send_rubbish(server)
        store.pause()
        await asyncio.gather(*(spy.ask(name, requests(name)[0], TOKEN) for name in METHODS))
        store.resume()
        await eventually(lambda: bool(server.logged("the store is back")))
    log = server.output()
    assert spy.failed >= set(METHODS) - {"GetServerInfo"}
    assert "tidegate_build_info" in scraped[0]
    said = {"log": log, "metrics": "".join(scraped), "errors": "\n".join(spy.heard)}
    for where, text in said.items():
        found = [line for line in text.splitlines() if any(secret in line for secret in SECRETS)]
        assert found == [], where
    assert [line for line in (log + "".join(scraped)).splitlines() if NAMES in line] == []


CHAT = model.Conversation(INSTANCE, PHONE)
STORED = model.StoredMessage(1, 0, 1, False, "id", PAYLOAD.encode())
INFO = model.BatchInfo(
    *("1", CHAT, model.BatchState.DELIVERING, 1, 1, 1, 1, 0, 0, 0, model.FlushReason.DELAY, 1)
)
SHOWN: tuple[object, ...] = (
    CHAT,
    STORED,
    INFO,
    model.NewMessage(CHAT, "id", PAYLOAD.encode(), 1, model.WindowPolicy()),
    model.Batch(INFO, (STORED,), LEASE, 0),
    models.NewMessage(INSTANCE, PHONE, PAYLOAD),
    Address("redis://h", "spy", PASSWORD),
    Push(url="https://bot.example", token=PUSH_TOKEN, secret=f"whsec_{PUSH_SECRET}"),  # pyright: ignore[reportArgumentType] - it is parsed
    Settings(store_url="redis://h", store_password=PASSWORD),  # pyright: ignore[reportArgumentType] - it is parsed
)


@pytest.mark.parametrize("value", SHOWN, ids=lambda value: type(value).__name__)
def test_a_value_does_not_show_what_is_secret_in_it(value: object):
    shown = f"{value!r} {value}"
    assert [secret for secret in SECRETS if secret in shown] == []


def test_what_the_client_gives_out_shows_neither_payloads_nor_conversations():
    kinds = [kind for kind in vars(models).values() if isinstance(kind, type)]
    held = [f for kind in kinds if is_dataclass(kind) for f in fields(kind) if f.repr]
    hidden = {"payload", "conversation", "attributes"}
    assert [f.name for f in held if f.name in hidden] == []
