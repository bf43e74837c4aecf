"""A store behind TLS, which a proxy in front of a plain one provides here."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.end_to_end.traffic import Reader, send, window
from tests.support.history import History
from tests.support.servers import Server, refusal
from tests.support.stores import StoreProcess, eventually
from tidegate import Client

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody else has signed; its key is beside it."""
    assert OPENSSL
    options = ("-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=store")
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", tmp_path / "key.pem", "-out", tmp_path / "store.pem")
    subprocess.run([OPENSSL, "req", *options, *names, *files], check=True, capture_output=True)
    return tmp_path / "store.pem"


@asynccontextmanager
async def encrypted(store: StoreProcess, certificate: Path) -> AsyncGenerator[str]:
    """The URL of the store behind TLS."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(store.dir / "store.sock")
        await asyncio.gather(copy(reader, outer), copy(inner, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    proxy = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with proxy:
        yield f"rediss://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


async def test_a_store_whose_certificate_is_trusted_is_used(
    tmp_path: Path, certificate: Path, history: History
):
    async with (
        StoreProcess() as store,
        encrypted(store, certificate) as url,
        Server(tmp_path, store_url=url, store_ca_file=str(certificate)) as server,
        Client(server.target) as gate,
        Reader(gate, history, "bot"),
    ):
        await send(gate, history, ("bot", "anna"), "m1", policy=window(0.05))
        await eventually(history.drained)


async def test_a_store_whose_certificate_is_not_trusted_is_refused(
    tmp_path: Path, certificate: Path
):
    async with StoreProcess() as store, encrypted(store, certificate) as url:
        code, said = await refusal(Server(tmp_path, store_url=url, store_wait="0s"))
    assert code == 1
    assert said.startswith(f"tidegate: the store at {url} cannot be reached")
    assert "CERTIFICATE_VERIFY_FAILED" in said
