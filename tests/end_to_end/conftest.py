import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest

from tests.support.history import History, violations
from tests.support.servers import Server
from tidegate import Client


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that harm nothing and name instances of their own."""
    server = Server(
        tmp_path_factory.mktemp("shared"),
        window_delay="200ms",
        window_grace="0s",
        retry_base="50ms",
        listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
    )
    asyncio.run(server.start())
    yield server
    assert asyncio.run(server.terminate()) == 0


@pytest.fixture
async def gate(shared_server: Server) -> AsyncGenerator[Client]:
    async with Client(shared_server.target) as client:
        yield client


@pytest.fixture
def history() -> Iterator[History]:
    """A record that must have no violation at the end of the test."""
    record = History()
    yield record
    assert violations(record) == []
