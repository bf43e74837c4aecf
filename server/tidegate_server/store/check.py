"""What a store must be to be used: the store is asked, then judged.

The levels of durability say what an acknowledged message survives; each includes those before it:

- `memory`: the death of Tidegate
- `everysec`: also the death of the store process. A store with `appendfsync everysec` makes one
  exception: while its disk is busy with a sync it answers, but holds its writes back in memory,
  for 2 seconds at most, and kill -9 at that moment loses them. The embedded store makes none.
- `fsync`: also a power cut
- `replicated`: the same as `everysec`, and also the loss of the primary, if a replica that has the
  message takes its place. Together with the settings of `fsync` it has all of that one, too.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tidegate_server.errors import StartupError
from tidegate_server.store.base import StoreInfo

Durability = Literal["memory", "everysec", "fsync", "replicated"]

_LEVELS: tuple[Durability, ...] = ("memory", "everysec", "fsync", "replicated")
_SETTINGS: dict[Durability, str] = {
    "memory": "nothing",
    "everysec": "`appendonly yes` and `appendfsync everysec`",
    "fsync": "`appendonly yes`, `appendfsync always` and `no-appendfsync-on-rewrite no`",
    "replicated": "`appendonly yes`, `appendfsync everysec` and `min-replicas-to-write 1`",
}
# The oldest version that works and the newest major version that was tested.
_VERSIONS = {"Redis": ((6, 2), 8), "Valkey": ((7, 2), 9)}
_LOADING_POLL_MS = 100


@dataclass(frozen=True, slots=True)
class Demand:
    """The level wanted, None for whichever it is; for `replicated`, by how many replicas."""

    durability: Durability | None = None
    replicas: int = 1

    @property
    def confirmations(self) -> int:
        """How many replicas have to confirm each write."""
        return self.replicas if self.durability == "replicated" else 0


class TooFewReplicas(StartupError):
    """Replicas are missing that may still come."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a store says of itself. What nobody may ask for is None.

    `replicas` are those that follow at this moment; without `min_replicas` of them, a number, the
    store takes no writes. An `embedded` store is synced by its supervisor.
    """

    product: str
    version: str
    mode: str = "standalone"
    role: str = "master"
    maxmemory_policy: str = "noeviction"
    appendonly: bool = True
    appendfsync: str | None = "everysec"
    no_appendfsync_on_rewrite: bool = False
    aof_load_truncated: bool = False
    min_replicas: int | None = 0
    replicas: int = 0
    embedded: bool = False


async def inspect(
    client: Redis,
    demand: Demand | None = None,
    *,
    embedded: bool = False,
    cluster: bool = False,
) -> StoreInfo:
    """Ask the store what it is, once it has loaded its data, and judge it.

    It has to be a node of a cluster if `cluster`, else it must be none. Errors of the connection
    pass through.

    Raises:
        TooFewReplicas: Some are missing at the moment.
        StartupError: The store cannot be used as it is.
    """
    return judge(await _ask(client, embedded=embedded), demand, cluster=cluster)


def judge(facts: Facts, demand: Demand | None = None, *, cluster: bool = False) -> StoreInfo:
    """Say what the store is good for. Without a level wanted, the one found is taken.

    Raises:
        TooFewReplicas: Some are missing at the moment.
        StartupError: The store cannot be used as it is, or is below the level wanted.
    """
    demand = demand or Demand()
    _refuse_unusable(facts, cluster=cluster)
    level, level_warning = _durability(facts)
    wanted = demand.durability
    if wanted == "replicated":
        _refuse_unreplicated(facts, level, demand.replicas)
        level, level_warning = wanted, ""
    elif wanted and _LEVELS.index(wanted) > _LEVELS.index(level):
        raise StartupError(_too_weak(facts, level, wanted))
    warnings = (*_warnings(facts), level_warning)
    return StoreInfo(
        product=facts.product.lower(),
        version=facts.version,
        durability=level,
        embedded=facts.embedded,
        warnings=tuple(filter(None, warnings)),
    )


def weakest(infos: Sequence[StoreInfo]) -> StoreInfo:
    """What all nodes of a store are good for together, with every warning."""
    levels: tuple[str, ...] = _LEVELS
    first = min(infos, key=lambda info: levels.index(info.durability))
    warnings = dict.fromkeys(warning for info in infos for warning in info.warnings)
    return replace(first, warnings=tuple(warnings))


def _refuse_unusable(facts: Facts, *, cluster: bool) -> None:
    oldest, _ = _VERSIONS[facts.product]
    if _numbers(facts.version) < oldest:
        raise StartupError(
            f"the store is {facts.product} {facts.version}, which is too old: use Redis 6.2 or "
            "later, or Valkey 7.2 or later"
        )
    if facts.mode == "sentinel":
        raise StartupError(
            "the store is a Sentinel: use redis+sentinel://host:port,host:port/SERVICE, with the "
            "name that it has for the primary"
        )
    if facts.mode == "cluster" and not cluster:
        raise StartupError(
            "the store is a node of a cluster: use redis+cluster://host:port,host:port, with the "
            "hosts of some nodes"
        )
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


def _refuse_unreplicated(facts: Facts, level: Durability, replicas: int) -> None:
    """Without a file, a primary that starts again after its death is empty, and so are all."""
    if level == "memory" or facts.embedded:
        raise StartupError(_too_weak(facts, level, "replicated"))
    wanted = "the durability replicated is wanted, and the store"
    if facts.min_replicas is None:
        raise StartupError(
            f"{wanted}'s user may not read min-replicas-to-write: allow it `+config|get`"
        )
    if facts.min_replicas < 1:
        raise StartupError(
            f"{wanted} takes writes also without a replica, so that a primary that is cut off goes "
            "on alone: set `min-replicas-to-write 1` in the store"
        )
    if facts.replicas < replicas:
        raise TooFewReplicas(
            f"{wanted} has {facts.replicas} of {replicas} replicas: start them, or set "
            "TIDEGATE_STORE_REPLICAS to how many there are"
        )


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
    if facts.appendonly and facts.aof_load_truncated:
        yield (
            "a store that was killed amid a write may do half of a script after its next start but "
            "one; set `aof-load-truncated no`, and `check-aof --fix` its file if it does not start"
        )


def _numbers(version: str) -> tuple[int, int]:
    major, minor = [*re.findall(r"\d+", version), "0", "0"][:2]
    return int(major), int(minor)


async def _ask(client: Redis, *, embedded: bool) -> Facts:
    info = await _info(client)
    while info.get("loading"):
        await asyncio.sleep(_LOADING_POLL_MS / 1000)
        info = await _info(client)
    config = await _settings(client)
    valkey = info.get("server_name") == "valkey" or "valkey_version" in info
    return Facts(
        product="Valkey" if valkey else "Redis",
        version=str(info.get("valkey_version") or info["redis_version"]),
        mode="cluster"
        if info.get("cluster_enabled")
        else str(info.get("redis_mode") or info.get("server_mode", "standalone")),
        role=str(info.get("role", "master")),
        maxmemory_policy=str(info.get("maxmemory_policy", "noeviction")),
        appendonly=bool(info.get("aof_enabled")),
        appendfsync=config.get("appendfsync"),
        no_appendfsync_on_rewrite=config.get("no-appendfsync-on-rewrite") == "yes",
        aof_load_truncated=config.get("aof-load-truncated") == "yes",
        min_replicas=_number(config.get("min-replicas-to-write")),
        replicas=_following(info),
        embedded=embedded,
    )


async def _info(client: Redis) -> dict[str, Any]:
    try:
        return await client.info()
    except ResponseError as error:
        raise StartupError(
            "the store's user may not ask what the store is: allow it `+info`"
        ) from error


async def _settings(client: Redis) -> dict[str, str]:
    """The settings, or none if they are forbidden, as hosted stores like to have it."""
    try:
        found = await client.config_get("*appendfsync*")
        found |= await client.config_get("min-replicas-to-write")
        found |= await client.config_get("aof-load-truncated")
    except ResponseError:
        return {}
    return {str(name): str(value) for name, value in found.items()}


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _following(info: dict[str, Any]) -> int:
    """How many replicas have the data and follow."""
    lines = [value for name, value in info.items() if re.fullmatch(r"slave\d+", name)]
    return sum(line.get("state") == "online" for line in lines)
