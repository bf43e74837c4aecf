"""A Redis or Valkey Cluster of throw-away processes: three primaries, each with a replica."""

import random
import secrets
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.support.stores import StoreProcess, eventually

SLOTS = 16_384
_TIMEOUT_MS = 1_500
# The bus of the cluster is 10,000 above, and below where the system gives out ports of its own.
_PORTS = range(11_000, 21_000)


@dataclass(frozen=True, slots=True)
class Member:
    """What a node says of a node: its place, its role and its slots."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str
    slots: tuple[range, ...]

    @property
    def is_primary(self) -> bool:
        return "master" in self.flags and "fail" not in self.flags


class ClusterStore:
    """Three primaries with a third of the slots each, and a replica of each, ready to be used.

    `nodes` are the processes: at first three primaries, then `nodes[n + 3]` as the replica of
    `nodes[n]`. Kill or pause them as any `StoreProcess`; a replica takes the
    place of a dead primary after two to four seconds. One that starts again comes back as a
    replica. Options are those of every process.
    """

    def __init__(self, binary: Path | None = None, **options: str):
        self.nodes = [
            StoreProcess(binary, tcp=True, port=port, **_OPTIONS | options)
            for port in _free_ports(6)
        ]
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """A cluster URL that names every node."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    async def members(self, *, seen_by: StoreProcess | None = None) -> list[Member]:
        """The nodes as one of them, else the first that answers, sees them."""
        for node in [seen_by] if seen_by else self.nodes:
            with suppress(RedisError, OSError):
                return await _members(node)
        raise AssertionError("no node of the cluster answers")

    async def primary_of(self, key: str) -> StoreProcess:
        """The process that takes writes to a key, such as `{p3}`, as its neighbours see it."""
        return self._process((await self._owner(key)).port)

    async def replica_of(self, key: str) -> StoreProcess:
        """A process that has a copy of a key."""
        owner = await self._owner(key)
        return next(
            self._process(member.port)
            for member in await self.members()
            if member.primary_id == owner.id
        )

    async def failed_over(self, key: str, before: StoreProcess) -> StoreProcess:
        """Wait until another process than `before` takes writes to a key, and all nodes agree."""

        async def is_other() -> bool:
            try:
                return await self.primary_of(key) is not before and await self.healthy()
            except AssertionError:
                return False

        await eventually(is_other, within_s=30)
        return await self.primary_of(key)

    async def move(self, key: str, to: StoreProcess) -> None:
        """Give the slot of a key, and all keys in it, to another primary, as a resharding does.

        What needs several of the keys cannot be done meanwhile.
        """
        slot, source = key_slot(key.encode()), await self.primary_of(key)
        ids = {member.port: member.id for member in await self.members()}
        async with source.client() as old, to.client() as new:
            await new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
            await old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to.port])
        await self.finish_move(key, to)

    async def finish_move(self, key: str, to: StoreProcess) -> None:
        """The second half of `move`: the keys, and then the slot, which is on its way."""
        slot, source = key_slot(key.encode()), await self.primary_of(key)
        ids = {member.port: member.id for member in await self.members()}
        async with source.client() as old, to.client() as new:
            while keys := await old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                await old.execute_command(
                    "MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *keys
                )
            for client in (new, old):
                await client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to.port])

    async def healthy(self) -> bool:
        """Whether every node that runs says that the cluster is in order."""
        for node in self.nodes:
            with suppress(RedisError, OSError):
                async with node.client() as client:
                    said: Any = await client.execute_command("CLUSTER INFO")
                state = said["cluster_state"] if isinstance(said, dict) else said
                if "ok" not in str(state):
                    return False
        return True

    async def _owner(self, key: str) -> Member:
        slot = key_slot(key.encode())
        for member in await self.members():
            if member.is_primary and any(slot in part for part in member.slots):
                return member
        raise AssertionError("no primary that is alive has the slot")

    def _process(self, port: int) -> StoreProcess:
        return next(node for node in self.nodes if node.port == port)

    async def _ready(self) -> bool:
        """Whether all is in order, and each replica follows its primary."""
        if not await self.healthy():
            return False
        for node in self.nodes[3:]:
            async with node.client() as client:
                if (await client.info("replication"))["master_link_status"] != "up":
                    return False
        return True

    async def __aenter__(self) -> Self:
        _acquaint(self.nodes)
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(node)
            await eventually(self._ready, within_s=20)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


_OPTIONS = {
    "bind": "127.0.0.1",
    "cluster_enabled": "yes",
    "cluster_node_timeout": str(_TIMEOUT_MS),
    "repl_diskless_sync_delay": "0",
    "repl_ping_replica_period": "1",
}


def _acquaint(nodes: Sequence[StoreProcess]) -> None:
    """Write down for each node what it would find out by and by: who is who, and who has what."""
    ids = [secrets.token_hex(20) for _ in nodes]
    bounds = [SLOTS * n // 3 for n in range(4)]
    for me, node in enumerate(nodes):
        lines: list[str] = []
        for n, other in enumerate(nodes):
            place = f"{ids[n]} 127.0.0.1:{other.port}@{other.port + 10_000}"
            flags = ("myself," if n == me else "") + ("master" if n < 3 else "slave")
            primary = "-" if n < 3 else ids[n - 3]
            slots = f" {bounds[n]}-{bounds[n + 1] - 1}" if n < 3 else ""
            lines.append(f"{place} {flags} {primary} 0 0 {n % 3 + 1} connected{slots}")
        lines.append("vars currentEpoch 3 lastVoteEpoch 0")
        (node.dir / "nodes.conf").write_text("\n".join(lines) + "\n")


async def _members(node: StoreProcess) -> list[Member]:
    async with node.client() as client:
        client.response_callbacks.clear()
        said: Any = await client.execute_command("CLUSTER NODES")
    return [_member(line) for line in said.decode().splitlines()]


def _member(line: str) -> Member:
    name, place, flags, primary, _, _, _, _, *slots = line.split()
    port = int(place.partition("@")[0].rpartition(":")[2])
    parts = [text.split("-") for text in slots if not text.startswith("[")]
    ranges = tuple(range(int(part[0]), int(part[-1]) + 1) for part in parts)
    return Member(name, port, frozenset(flags.split(",")), primary, ranges)


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
        if len(found) == count:
            break
    return found


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
