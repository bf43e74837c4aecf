"""Messages that arrive just as their window closes, from several connections at once."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from redis import Redis

from tests.end_to_end.traffic import Reader, send, window
from tests.support.audit import contradictions
from tests.support.history import Chat, History
from tests.support.servers import Server
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate import Client
from tidegate_server.store.keys import Keys

CONVERSATIONS, ROUNDS, WRITERS, SHOTS = 100, 6, 3, 3
BEFORE_S, AFTER_S = 0.004, 0.001
"""Where shots go, seen from the window's end; they travel for about a millisecond."""


@asynccontextmanager
async def connections(target: str) -> AsyncGenerator[list[Client]]:
    """Clients that share no connection."""
    async with AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options))
            for _ in range(WRITERS)
        ]
        yield [await stack.enter_async_context(Client(target, channel=c)) for c in channels]


class Shooter:
    """Aims at the end of the windows of one conversation."""

    def __init__(self, writers: list[Client], history: History, chat: Chat):
        self.joined = self.opened = 0
        self._writers = writers
        self._history = history
        self._chat = chat
        self._grace_s = random.choice((0, 0, 0.03))

    async def shoot(self) -> None:
        for n in range(ROUNDS):
            policy = window(random.uniform(0.1, 0.3), grace_s=self._grace_s)
            opener = random.choice(self._writers)
            added = await send(opener, self._history, self._chat, f"{n}", policy=policy)
            assert added.buffer
            end_s = added.buffer.flush_at.timestamp()
            shots = [
                self._shot(writer, f"{n}-{w}-{shot}", end_s)
                for w, writer in enumerate(self._writers)
                for shot in range(SHOTS)
            ]
            await asyncio.gather(*shots)

    async def _shot(self, writer: Client, name: str, end_s: float) -> None:
        await asyncio.sleep(end_s - time.time() + random.uniform(-BEFORE_S, AFTER_S))
        policy = window(0.1, grace_s=self._grace_s)
        added = await send(writer, self._history, self._chat, name, policy=policy)
        self.opened += added.buffer_created
        self.joined += not added.buffer_created


@pytest.mark.parametrize("binary", [pytest.param(path, id=name) for name, path in binaries()])
async def test_messages_at_the_edge_of_a_window_are_neither_lost_nor_doubled_nor_out_of_order(
    binary: Path, tmp_path: Path, history: History
):
    async with (
        StoreProcess(binary) as store,
        Server(tmp_path, store_url=store.user_url) as server,
        connections(server.target) as writers,
        Client(server.target) as gate,
        Reader(gate, history, "edge"),
    ):
        shooters = [Shooter(writers, history, ("edge", f"{n}")) for n in range(CONVERSATIONS)]
        await asyncio.gather(*(shooter.shoot() for shooter in shooters))
        await eventually(history.drained)
        with Redis.from_url(store.url) as client:
            assert contradictions(client, Keys("tg")) == []
        assert (await gate.stats()).buffered_messages == 0
    assert sum(shooter.joined for shooter in shooters) > CONVERSATIONS
    assert sum(shooter.opened for shooter in shooters) > CONVERSATIONS
