"""The layout of a store: how many partitions it has, and whether it stays, comes or goes.

It is one hash. A store that moves is marked at both ends, so that no server starts on half of it:

    version, partitions   of the keys here
    moving, to            the move that takes the keys away, and where to
    moved                 the same name: nothing is left here
    arriving, origin      the move that brings the keys, and where from
    arrived               the same name: all of them are here
    probe                 for a moment: whether two ends are one
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from tidegate_server.errors import StartupError
from tidegate_server.store.keys import LAYOUT_VERSION, Keys

MOST_PARTITIONS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of the hash, empty where there is none."""

    fields: Mapping[str, str]

    def __getattr__(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def exists(self) -> bool:
        """Whether the keys have a layout at all."""
        return bool(self.version)

    @property
    def partitions(self) -> int:
        """The number of partitions; 0 if it is none that any version writes."""
        number = self.fields.get("partitions", "")
        return int(number) if number.isascii() and number.isdigit() else 0

    @property
    def is_left(self) -> bool:
        """Everything has moved away."""
        return bool(self.moved) and self.moved == self.moving

    @property
    def is_leaving(self) -> bool:
        """A move has begun to take the keys away."""
        return bool(self.moving) and not self.is_left

    @property
    def is_arriving(self) -> bool:
        """A move has not brought all keys yet."""
        return bool(self.arriving) and self.arrived != self.arriving

    def why_not(self, prefix: str) -> str | None:
        """Why no server may use the keys; None if one may."""
        if self.is_left:
            return (
                f"the store's keys under {prefix!r} have moved to {self.to}: set TIDEGATE_STORE_URL"
                " (and TIDEGATE_STORE_PREFIX) to that, or delete the key"
                f" {Keys(prefix).layout!r} to begin anew here"
            )
        if self.is_leaving:
            return (
                f"the store's keys under {prefix!r} are about to move to {self.to}: let `tidegate"
                " store move` come to its end, again if it broke off, and start on that store"
            )
        if self.is_arriving:
            return (
                f"the store's keys under {prefix!r} are about to come from {self.origin}: let"
                " `tidegate store move` come to its end, again if it broke off"
            )
        if self.version != str(LAYOUT_VERSION) or not 1 <= self.partitions <= MOST_PARTITIONS:
            return (
                f"the store's keys under {prefix!r} have layout {dict(self.fields)}, which this"
                f" version does not know (it writes version {LAYOUT_VERSION}): use the version that"
                " wrote them, or another TIDEGATE_STORE_PREFIX"
            )
        return None


async def read(client: Redis, prefix: str) -> Layout:
    """The layout as it is."""
    found: Any = await client.hgetall(Keys(prefix).layout)  # pyright: ignore[reportGeneralTypeIssues]
    return Layout({name.decode(): value.decode() for name, value in found.items()})


async def write(client: Redis, prefix: str, fields: Mapping[str, str]) -> None:
    """Set these fields in one step."""
    await client.hset(Keys(prefix).layout, mapping={**fields})  # pyright: ignore[reportGeneralTypeIssues]


async def claim(client: Redis, prefix: str, *, partitions: int) -> int:
    """Lay the store out, unless it is. The number of partitions that it has.

    Raises:
        StartupError: The keys are not for this server to use.
    """
    key = Keys(prefix).layout
    wanted = {"version": str(LAYOUT_VERSION), "partitions": str(partitions)}
    for field, value in wanted.items():
        await client.hsetnx(key, field, value)  # pyright: ignore[reportGeneralTypeIssues]
    layout = await read(client, prefix)
    if refusal := layout.why_not(prefix):
        raise StartupError(refusal)
    return layout.partitions
