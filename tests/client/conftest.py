from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import tidegate
import tidegate.blocking
from tests.support.fake_gate import FakeGate, fake_gate


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[FakeGate]:
    async with fake_gate(tmp_path) as running:
        yield running


@pytest.fixture
async def client(gate: FakeGate) -> AsyncIterator[tidegate.Client]:
    async with tidegate.Client(gate.address) as connected:
        yield connected


@pytest.fixture
def blocking_client(gate: FakeGate) -> Iterator[tidegate.blocking.Client]:
    with tidegate.blocking.Client(gate.address) as connected:
        yield connected
