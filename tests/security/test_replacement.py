"""Tokens and certificates that are replaced while calls are made: none fails."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.secured import Papers, SecuredServer, Token
from tests.support.stores import eventually
from tidegate import Client, Unauthenticated

OLD, NEW = Token("the-old-token"), Token("the-new-token")


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    made = Papers(tmp_path / "papers")
    made.admit(OLD)
    return made


class Caller:
    """Adds, subscribes and opens connections all the time, and counts; a failure is kept."""

    def __init__(self, target: str, papers: Papers):
        self.token, self.acked, self.added = OLD, 0, 0
        self._target, self._papers = target, papers

    def client(self) -> Client:
        return Client(
            self._target,
            token=lambda: self.token.value,
            ca_file=self._papers.ca,
            cert_file=self._papers.folder / "client.pem",
            key_file=self._papers.folder / "client.key",
        )

    async def add(self, gate: Client) -> None:
        while True:
            names = [f"{self.added}-{n}" for n in range(4)]
            await asyncio.gather(*(gate.add("bot", name, "hello") for name in names))
            self.added += len(names)
            await asyncio.sleep(0.01)

    async def connect(self) -> None:
        while True:
            async with self.client() as gate:
                await gate.server_info()
            await asyncio.sleep(0.02)

    async def receive(self, gate: Client) -> None:
        async with gate.subscribe("bot") as batches:
            async for batch in batches:
                await batch.ack()
                self.acked += 1

    async def moves_on(self) -> None:
        """Wait until more has been added, and all of it was received."""
        added = self.added
        await eventually(lambda: self.added > added and self.acked > added)

    @asynccontextmanager
    async def calling(self) -> AsyncGenerator[None]:
        async with self.client() as gate:
            work = (self.add(gate), self.connect(), self.receive(gate))
            tasks = [asyncio.create_task(one) for one in work]
            try:
                await self.moves_on()
                yield
                await self.moves_on()
                assert not any(task.done() for task in tasks)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def shown(address: str, papers: Papers) -> str:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(papers.ca), timeout=5)


async def works(target: str, papers: Papers, token: Token) -> bool:
    caller = Caller(target, papers)
    caller.token = token
    async with caller.client() as gate:
        try:
            await gate.server_info()
        except Unauthenticated:
            return False
    return True


async def is_refused(target: str, papers: Papers, token: Token) -> bool:
    return not await works(target, papers, token)


async def test_tokens_and_certificates_are_replaced_under_load(tmp_path: Path, papers: Papers):
    async with SecuredServer(
        tmp_path / "s", papers, client_ca=False, window_delay="0s", window_grace="0s"
    ) as server:
        ports = [server.target, server.http.removeprefix("https://")]
        before = [await asyncio.to_thread(shown, port, papers) for port in ports]
        caller = Caller(server.target, papers)
        async with caller.calling():
            papers.admit(OLD, NEW)
            made = papers.issue("server", "127.0.0.1").decode()
            await eventually(lambda: works(server.target, papers, NEW))
            caller.token = NEW
            papers.admit(NEW)
            await eventually(lambda: is_refused(server.target, papers, OLD))
            await caller.moves_on()
            after = [await asyncio.to_thread(shown, port, papers) for port in ports]
            assert [_body(one) for one in after] == [_body(made)] * 2
            assert set(after).isdisjoint(before)
        assert len(server.logged("the file of tokens has been replaced")) == 2
        assert len(server.logged("the certificate has been replaced")) == 1


async def test_a_stream_whose_token_is_withdrawn_ends(tmp_path: Path, papers: Papers):
    papers.admit(OLD, NEW)
    async with (
        SecuredServer(tmp_path / "s", papers, client_ca=False) as server,
        Client(server.target, token=OLD.value, ca_file=papers.ca) as gate,
        gate.subscribe("bot") as batches,
    ):
        papers.admit(NEW)
        with pytest.raises(Unauthenticated):
            await anext(batches)


async def test_files_that_cannot_be_used_change_nothing(tmp_path: Path, papers: Papers):
    async with SecuredServer(tmp_path / "s", papers, client_ca=False) as server:
        papers.tokens.write_text("[[token]]\nname =")
        papers.key.write_bytes((papers.folder / "client.key").read_bytes())

        def complaints() -> list[str]:
            lines = server.output().splitlines()
            return [line for line in lines if "cannot be used, the old stays" in line]

        await eventually(lambda: len(complaints()) == 2)
        assert await works(server.target, papers, OLD)
        await asyncio.to_thread(shown, server.http.removeprefix("https://"), papers)
        assert len(complaints()) == 2


def _body(pem: str) -> str:
    return "".join(pem.split())
