"""What a store must be to be used: the store is asked, then judged.

The levels of durability say what an acknowledged message survives; each includes those before it:

- `memory`: the death of Tidegate
- `everysec`: also the death of the store process. A store with `appendfsync everysec` makes one
  exception: while its disk is busy with a sync it answers, but holds its writes back in memory,
  for 2 seconds at most, and kill -9 at that moment loses them. The embedded store makes none.
- `fsync`: also a power cut
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tidegate_server.errors import StartupError
from tidegate_server.store.base import StoreInfo

Durability = Literal["memory", "everysec", "fsync"]

_LEVELS: tuple[Durability, ...] = ("memory", "everysec", "fsync")
_SETTINGS: dict[Durability, str] = {
    "memory": "nothing",
    "everysec": "`appendonly yes` and `appendfsync everysec`",
    "fsync": "`appendonly yes`, `appendfsync always` and `no-appendfsync-on-rewrite no`",
}
# The oldest version that works and the newest major version that was tested.
_VERSIONS = {"Redis": ((6, 2), 8), "Valkey": ((7, 2), 9)}
_LOADING_POLL_MS = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """What a store says of itself. `appendfsync` is None if nobody may ask for it.

    An `embedded` store is synced by its supervisor.
    """

    product: str
    version: str
    mode: str = "standalone"
    role: str = "master"
    maxmemory_policy: str = "noeviction"
    appendonly: bool = True
    appendfsync: str | None = "everysec"
    no_appendfsync_on_rewrite: bool = False
    embedded: bool = False


async def inspect(
    client: Redis, *, wanted: Durability | None = None, embedded: bool = False
) -> StoreInfo:
    """Ask the store what it is, once it has loaded its data, and judge it.

    Errors of the connection pass through.

    Raises:
        StartupError: The store cannot be used as it is.
    """
    return judge(await _ask(client, embedded=embedded), wanted)


def judge(facts: Facts, wanted: Durability | None = None) -> StoreInfo:
    """Say what the store is good for. Without `wanted`, the level found is taken.

    Raises:
        StartupError: The store cannot be used as it is, or is below the level wanted.
    """
    _refuse_unusable(facts)
    level, level_warning = _durability(facts)
    if wanted and _LEVELS.index(wanted) > _LEVELS.index(level):
        raise StartupError(_too_weak(facts, level, wanted))
    warnings = (*_warnings(facts), level_warning)
    return StoreInfo(
        product=facts.product.lower(),
        version=facts.version,
        durability=level,
        embedded=facts.embedded,
        warnings=tuple(filter(None, warnings)),
    )


def _refuse_unusable(facts: Facts) -> None:
    oldest, _ = _VERSIONS[facts.product]
    if _numbers(facts.version) < oldest:
        raise StartupError(
            f"the store is {facts.product} {facts.version}, which is too old: use Redis 6.2 or "
            "later, or Valkey 7.2 or later"
        )
    if facts.mode == "cluster":
        raise StartupError(
            "the store runs in cluster mode, which is not supported: use one with "
            "`cluster-enabled no`"
        )
    if facts.mode == "sentinel":
        raise StartupError("the store is a Sentinel: use the URL of the primary that it watches")
    if facts.role != "master":
        raise StartupError("the store is a read-only replica: use the URL of its primary")
    if facts.maxmemory_policy.startswith("allkeys-"):
        raise StartupError(
            f"the store's maxmemory-policy {facts.maxmemory_policy} deletes messages when memory "
            "is short: set `maxmemory-policy noeviction`"
        )


def _durability(facts: Facts) -> tuple[Durability, str]:
    """The level found, and what one should know about it."""
    only_memory = "an acknowledged message survives the death of Tidegate, not that of the store"
    if not facts.appendonly:
        return "memory", f"{only_memory}; set `appendonly yes`"
    if facts.appendfsync is None:
        return "memory", (
            "the store's user may not read appendfsync, so the durability is taken to be memory; "
            "allow it `+config|get`"
        )
    if facts.embedded and facts.appendfsync == "no":
        return "everysec", ""
    if facts.appendfsync == "no":
        return "memory", f"{only_memory}; set `appendfsync everysec`"
    if facts.appendfsync == "everysec":
        return "everysec", ""
    if facts.no_appendfsync_on_rewrite:
        return "everysec", (
            "appendfsync always pauses while the store rewrites its file, so the durability is "
            "everysec; set `no-appendfsync-on-rewrite no`"
        )
    return "fsync", ""


def _too_weak(facts: Facts, found: Durability, wanted: Durability) -> str:
    if facts.appendonly and facts.appendfsync is None:
        return (
            f"the durability {wanted} is wanted, and the store's user may not read whether the "
            "store has it: allow it `+config|get`"
        )
    if facts.embedded:
        return (
            f"the durability {wanted} is wanted, and the embedded store has {found}: set "
            f"TIDEGATE_STORE_URL to a store of your own with {_SETTINGS[wanted]}"
        )
    return (
        f"the durability {wanted} is wanted, and the store has {found}: set {_SETTINGS[wanted]} "
        "in the store"
    )


def _warnings(facts: Facts) -> Iterator[str]:
    _, newest = _VERSIONS[facts.product]
    if _numbers(facts.version)[0] > newest:
        yield f"{facts.product} {facts.version} is newer than any that Tidegate was tested with"
    if facts.maxmemory_policy.startswith("volatile-"):
        yield (
            f"with maxmemory-policy {facts.maxmemory_policy} a store short of memory forgets "
            "the ids of recent messages and may take one twice; set `maxmemory-policy noeviction`"
        )


def _numbers(version: str) -> tuple[int, int]:
    major, minor = [*re.findall(r"\d+", version), "0", "0"][:2]
    return int(major), int(minor)


async def _ask(client: Redis, *, embedded: bool) -> Facts:
    info = await _info(client)
    while info.get("loading"):
        await asyncio.sleep(_LOADING_POLL_MS / 1000)
        info = await _info(client)
    config = await _append_settings(client)
    valkey = info.get("server_name") == "valkey" or "valkey_version" in info
    return Facts(
        product="Valkey" if valkey else "Redis",
        version=str(info.get("valkey_version") or info["redis_version"]),
        mode="cluster"
        if info.get("cluster_enabled")
        else str(info.get("redis_mode", "standalone")),
        role=str(info.get("role", "master")),
        maxmemory_policy=str(info.get("maxmemory_policy", "noeviction")),
        appendonly=bool(info.get("aof_enabled")),
        appendfsync=config.get("appendfsync"),
        no_appendfsync_on_rewrite=config.get("no-appendfsync-on-rewrite") == "yes",
        embedded=embedded,
    )


async def _info(client: Redis) -> dict[str, Any]:
    try:
        return await client.info()
    except ResponseError as error:
        raise StartupError(
            "the store's user may not ask what the store is: allow it `+info`"
        ) from error


async def _append_settings(client: Redis) -> dict[str, str]:
    """The settings, or none if they are forbidden, as hosted stores like to have it."""
    try:
        found = await client.config_get("*appendfsync*")
    except ResponseError:
        return {}
    return {str(name): str(value) for name, value in found.items()}
