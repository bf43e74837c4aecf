from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.stores import StoreProcess, binaries
from tidegate_server.errors import StartupError
from tidegate_server.store.check import Demand, Durability, Facts, TooFewReplicas, inspect, judge
from tidegate_server.store.embedded import EmbeddedStore

VALKEY = Facts(product="Valkey", version="9.1.2")
REDIS = Facts(product="Redis", version="6.2.5")

each_store = pytest.mark.parametrize(
    ("name", "binary"), [pytest.param(name, path, id=name) for name, path in binaries()]
)


@pytest.mark.parametrize(
    "facts",
    [
        VALKEY,
        REDIS,
        replace(VALKEY, version="8.0.0"),
        replace(REDIS, version="7.4.1"),
        replace(REDIS, version="8.2.0-rc1"),
    ],
)
def test_supported_stores_are_taken_without_a_warning(facts: Facts):
    info = judge(facts)
    assert (info.product, info.version) == (facts.product.lower(), facts.version)
    assert info.durability == "everysec"
    assert not info.warnings


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(REDIS, version="6.0.20"), "too old: use Redis 6.2 or later"),
        (replace(REDIS, version="5.0"), "too old: use Redis 6.2 or later"),
        (replace(REDIS, maxmemory_policy="allkeys-lru"), "set `maxmemory-policy noeviction`"),
        (replace(VALKEY, maxmemory_policy="allkeys-random"), "set `maxmemory-policy noeviction`"),
        (replace(VALKEY, mode="cluster"), r"use redis\+cluster://"),
        (replace(VALKEY, mode="sentinel"), r"use redis\+sentinel://"),
        (replace(VALKEY, role="slave"), "URL of its primary"),
    ],
)
def test_a_store_that_would_break_the_promise_is_refused(facts: Facts, says: str):
    with pytest.raises(StartupError, match=says):
        judge(facts)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(REDIS, version="9.0.0"), "Redis 9.0.0 is newer"),
        (replace(VALKEY, version="10.0.1"), "Valkey 10.0.1 is newer"),
        (replace(VALKEY, maxmemory_policy="volatile-ttl"), "may take one twice"),
        (replace(VALKEY, aof_load_truncated=True), "set `aof-load-truncated no`"),
        (replace(VALKEY, appendonly=False), "set `appendonly yes`"),
        (replace(VALKEY, appendfsync="no"), "set `appendfsync everysec`"),
        (replace(VALKEY, appendfsync=None), "allow it `+config|get`"),
    ],
)
def test_what_is_doubtful_is_taken_with_a_warning(facts: Facts, says: str):
    (warning,) = judge(facts).warnings
    assert says in warning


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (replace(VALKEY, appendonly=False), "memory"),
        (replace(VALKEY, appendonly=False, appendfsync="always"), "memory"),
        (replace(VALKEY, appendfsync="no"), "memory"),
        (replace(VALKEY, appendfsync="no", embedded=True), "everysec"),
        (replace(VALKEY, appendonly=False, appendfsync="no", embedded=True), "memory"),
        (replace(VALKEY, appendfsync=None), "memory"),
        (replace(VALKEY, appendfsync="everysec"), "everysec"),
        (replace(VALKEY, appendfsync="always", no_appendfsync_on_rewrite=True), "everysec"),
        (replace(VALKEY, appendfsync="always"), "fsync"),
    ],
)
def test_the_durability_is_what_the_settings_hold(facts: Facts, level: str):
    assert judge(facts).durability == level


@pytest.mark.parametrize(
    ("facts", "wanted", "says"),
    [
        (replace(VALKEY, appendonly=False), "everysec", "everysec is wanted.* has memory"),
        (replace(VALKEY, appendonly=False), "fsync", "`appendfsync always`"),
        (VALKEY, "fsync", "fsync is wanted.* has everysec.*`appendfsync always`"),
        (
            replace(VALKEY, appendfsync="always", no_appendfsync_on_rewrite=True),
            "fsync",
            "`no-appendfsync-on-rewrite no`",
        ),
        (replace(VALKEY, appendfsync=None), "everysec", r"allow it `\+config\|get`"),
        (
            replace(VALKEY, appendfsync="no", embedded=True),
            "fsync",
            "embedded store has everysec: set TIDEGATE_STORE_URL to .* `appendfsync always`",
        ),
        (
            replace(VALKEY, appendonly=False, min_replicas=1, replicas=1),
            "replicated",
            "replicated is wanted.* has memory: set `appendonly yes`",
        ),
        (
            replace(VALKEY, appendfsync="no", embedded=True, min_replicas=1, replicas=1),
            "replicated",
            "embedded store has everysec: set TIDEGATE_STORE_URL to .* `min-replicas-to-write 1`",
        ),
        (replace(VALKEY, replicas=1), "replicated", "set `min-replicas-to-write 1`"),
        (
            replace(VALKEY, min_replicas=None, replicas=1),
            "replicated",
            r"min-replicas-to-write: allow it `\+config\|get`",
        ),
    ],
)
def test_a_store_below_the_wanted_level_is_refused(facts: Facts, wanted: Durability, says: str):
    with pytest.raises(StartupError, match=says):
        judge(facts, Demand(wanted))


@pytest.mark.parametrize("wanted", ["memory", "everysec"])
def test_a_level_that_is_held_or_exceeded_is_taken(wanted: Durability):
    assert judge(replace(VALKEY, appendfsync="always"), Demand(wanted)).durability == "fsync"
    assert judge(VALKEY, Demand(wanted)).durability == "everysec"


def test_replicated_is_held_with_enough_replicas():
    facts = replace(VALKEY, min_replicas=1, replicas=2)
    assert judge(facts, Demand("replicated", 2)).durability == "replicated"
    with pytest.raises(TooFewReplicas, match="has 2 of 3 replicas"):
        judge(facts, Demand("replicated", 3))
    assert judge(facts).durability == "everysec"


def test_a_node_of_a_cluster_is_taken_where_one_is_named():
    assert judge(replace(VALKEY, mode="cluster"), cluster=True).durability == "everysec"


@each_store
async def test_a_store_without_a_file_holds_memory(name: str, binary: Path):
    async with StoreProcess(binary) as store, store.client() as client:
        info = await inspect(client)
    assert name.startswith(f"{info.product}-{'.'.join(info.version.split('.')[:2])}")
    assert info.durability == "memory"
    assert not info.embedded


@each_store
@pytest.mark.parametrize(
    ("appendfsync", "level"), [("no", "memory"), ("everysec", "everysec"), ("always", "fsync")]
)
async def test_the_level_follows_appendfsync(name: str, binary: Path, appendfsync: str, level: str):
    store = StoreProcess(binary, appendonly="yes", appendfsync=appendfsync)
    async with store, store.client() as client:
        info = await inspect(client)
    assert info.durability == level


async def test_the_embedded_store_holds_everysec_without_a_warning(tmp_path: Path):
    store = EmbeddedStore(tmp_path)
    await store.start()
    try:
        async with Redis.from_url(store.url) as client:
            info = await inspect(client, Demand("everysec"), embedded=True)
    finally:
        await store.stop()
    assert info.durability == "everysec"
    assert info.embedded
    assert not info.warnings


@each_store
async def test_a_store_that_evicts_any_key_is_refused(name: str, binary: Path):
    store = StoreProcess(binary, maxmemory="10mb", maxmemory_policy="allkeys-lru")
    async with store, store.client() as client:
        with pytest.raises(StartupError, match="allkeys-lru deletes messages"):
            await inspect(client)


@each_store
async def test_a_replica_is_refused(name: str, binary: Path):
    async with StoreProcess(binary) as store, store.client() as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StartupError, match="URL of its primary"):
            await inspect(client)


@each_store
async def test_a_cluster_node_is_refused(name: str, binary: Path):
    store = StoreProcess(binary, tcp=True, cluster_enabled="yes")
    async with store, store.client() as client:
        with pytest.raises(StartupError, match=r"use redis\+cluster://"):
            await inspect(client)


@each_store
async def test_a_user_without_config_gets_the_level_that_is_certain(name: str, binary: Path):
    async with StoreProcess(binary, appendonly="yes") as store, store.client() as client:
        await client.execute_command("ACL", "SETUSER", "default", "-config")
        info = await inspect(client)
        assert info.durability == "memory"
        assert "`+config|get`" in info.warnings[0]

        await client.execute_command("ACL", "SETUSER", "default", "-info")
        with pytest.raises(StartupError, match=r"\+info"):
            await inspect(client)
