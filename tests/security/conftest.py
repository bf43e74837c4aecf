import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.gate import ANNA, Guests
from tests.support.secured import Papers, SecuredServer


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    made = Papers(tmp_path_factory.mktemp("papers"))
    made.admit(*ANNA.tokens)
    return made


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory, papers: Papers) -> Iterator[SecuredServer]:
    """A server for all tests that harm nothing."""
    folder = tmp_path_factory.mktemp("secured")
    server = SecuredServer(Path(folder), papers, log_level="debug", window_delay="0s")
    asyncio.run(server.start())
    yield server
    assert asyncio.run(server.terminate()) == 0


@pytest.fixture(scope="session")
def guests(secured: SecuredServer, papers: Papers) -> Iterator[Guests]:
    with Guests(secured.target, papers) as found:
        yield found
