"""The loss of a primary, a replica that hangs: what clients see at the durability `replicated`."""

from datetime import timedelta
from pathlib import Path

import grpc

from tests.end_to_end.test_store_troubles import add_once
from tests.end_to_end.traffic import Load, Reader
from tests.support.history import History
from tests.support.replicas import WatchedStore
from tests.support.servers import Server
from tests.support.stores import eventually
from tidegate import AddOutcome, Client


async def test_nothing_acknowledged_is_lost_when_the_primary_dies_under_load(
    tmp_path: Path, history: History
):
    async with WatchedStore(appendonly="yes", min_replicas_to_write="1") as stores:
        settings = {"store_url": stores.url, "durability": "replicated"}
        async with (
            Server(tmp_path, **settings, lease="2s", store_timeout="500ms") as server,
            Client(server.target) as gate,
            Reader(gate, history, "bot"),
        ):
            assert server.said("serving")["durability"] == "replicated"
            async with Load([gate], history, "bot") as load:
                await load.more(200)
                await stores.primary.kill()
                promoted = await stores.failed_over(stores.primary)
                await stores.add_replica(promoted)
                await load.more(200)
            await eventually(history.drained, within_s=30)


async def test_an_add_that_is_unconfirmed_is_an_error_also_where_others_fall_back(tmp_path: Path):
    async with WatchedStore(appendonly="yes", min_replicas_to_write="1") as stores:
        settings = {"store_url": stores.url, "durability": "replicated", "fallback": "immediate"}
        async with Server(tmp_path, **settings, store_timeout="400ms") as server:
            stores.replicas[0].pause()
            error = await add_once(server.target, "m1", timeout_s=2)
            assert error
            assert error.code is grpc.StatusCode.UNAVAILABLE
            assert error.reason == "DURABILITY_UNCONFIRMED"
            assert error.retry_after
            stores.replicas[0].resume()
            async with Client(server.target) as gate:
                added = await gate.add(
                    "bot", "anna", "x", message_id="m1", timeout=timedelta(seconds=10)
                )
            assert added.outcome is AddOutcome.DUPLICATE
