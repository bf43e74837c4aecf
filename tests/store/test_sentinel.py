"""The way to a primary that Sentinels watch."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from tests.support.replicas import SERVICE, WatchedStore
from tests.support.stores import StoreProcess
from tidegate_server.errors import StartupError
from tidegate_server.store.check import Demand
from tidegate_server.store.connect import Address, prepare


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[WatchedStore]:
    """For tests that leave everything as it was."""
    async with WatchedStore(appendonly="yes", min_replicas_to_write="1") as store:
        yield store


async def port_of(connection: AbstractConnection) -> int:
    await connection.send_command("CONFIG", "GET", "port")
    found: Any = await connection.read_response()
    await connection.disconnect()
    return int(found[1])


async def primary_port(address: Address, *, within_s: float = 10) -> int:
    """Where the dialer ends up, once it does."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await port_of(await address.dialer().open())
            except (RedisError, OSError):
                await asyncio.sleep(0.05)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_primary_is_found_and_judged(watched: WatchedStore):
    address = Address(watched.url)
    assert await primary_port(address) == watched.primary.port
    info = await prepare(address, prefix="tg", demand=Demand("replicated"))
    assert info.durability == "replicated"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sentinel_that_is_dead_or_hangs_is_no_obstacle(watched: WatchedStore):
    hanging, *_ = watched.sentinels
    dead = f"redis+sentinel://127.0.0.1:1,{watched.url.partition('://')[2]}"
    hanging.pause()
    try:
        assert await primary_port(Address(dead, timeout=0.5)) == watched.primary.port
    finally:
        hanging.resume()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_database_can_be_named(watched: WatchedStore):
    connection = await Address(f"{watched.url}/3").dialer().open()
    await connection.send_command("CLIENT", "LIST", "TYPE", "normal")
    listed: Any = await connection.read_response()
    await connection.disconnect()
    assert b" db=3 " in listed


@pytest.mark.asyncio(loop_scope="module")
async def test_sentinels_that_want_credentials_get_those_of_the_store(watched: WatchedStore):
    nodes = (watched.primary, *watched.replicas, *watched.sentinels)
    address = Address(watched.url, username="tg", password="secret")
    for node in nodes:
        async with node.client() as client:
            await client.execute_command("ACL SETUSER tg on >secret ~* &* +@all")
    for sentinel in watched.sentinels:
        async with sentinel.client() as client:
            await client.execute_command("ACL SETUSER default >other")
    try:
        assert await primary_port(address) == watched.primary.port
    finally:
        for sentinel in watched.sentinels:
            async with Address(sentinel.url, username="tg", password="secret").client() as client:
                await client.execute_command("ACL SETUSER default nopass")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{sentinels}x", f"know no service '{SERVICE}x': correct its name in TIDEGATE_STORE_URL"),
        ("redis://127.0.0.1:{sentinel}", r"is a Sentinel: use redis\+sentinel://"),
        ("redis+cluster://127.0.0.1:{sentinel}", "is no cluster: use redis://"),
        ("redis+sentinel://127.0.0.1:{primary}/main", "is no Sentinel: use the URL of Sentinels"),
        ("redis+cluster://127.0.0.1:{primary}", "is no cluster: use redis://"),
        ("redis://127.0.0.1:{replica}", "is a read-only replica: use the URL of its primary"),
        ("redis+sentinel://127.0.0.1:1/main", "cannot be reached"),
    ],
)
async def test_a_url_that_does_not_fit_is_refused_with_a_sentence(
    watched: WatchedStore, url: str, says: str
):
    url = url.format(
        sentinels=watched.url,
        sentinel=watched.sentinels[0].port,
        primary=watched.primary.port,
        replica=watched.replicas[0].port,
    )
    with pytest.raises(StartupError, match=says):
        await prepare(Address(url), prefix="tg", wait=0)


async def test_after_a_failover_the_promoted_replica_is_found():
    async with WatchedStore() as watched:
        address = Address(watched.url, timeout=0.5)
        assert await primary_port(address) == watched.primary.port
        await watched.primary.kill()
        with pytest.raises((RedisError, OSError)):
            await address.dialer().open()
        assert await primary_port(address) == watched.replicas[0].port


async def test_a_primary_that_hangs_is_given_up_for_the_promoted_replica():
    async with WatchedStore() as watched:
        watched.primary.pause()
        address = Address(watched.url, timeout=0.5)
        assert await primary_port(address) == watched.replicas[0].port


async def test_without_a_sentinel_on_the_other_end_nothing_is_believed():
    async with StoreProcess(tcp=True) as store:
        address = Address(f"redis+sentinel://127.0.0.1:{store.port}/main")
        with pytest.raises(RedisError, match="is no Sentinel"):
            await address.dialer().open()
