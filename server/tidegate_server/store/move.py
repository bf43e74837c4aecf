"""Moves a store to another one, or to another number of partitions, while no server uses either.

Everything is copied first, a conversation or a settled batch a step; a step that is repeated does
nothing. Then the destination is told that all of it has come, and only then is the source emptied.
So a move that breaks off anywhere is repeated, and comes to the same end. Batch ids, tokens,
sequences and times stay as they are; what has a life time has the rest of it.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tidegate_server.errors import TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.store import layout, parcel
from tidegate_server.store.base import Stats
from tidegate_server.store.check import inspect
from tidegate_server.store.connect import Address
from tidegate_server.store.keys import LAYOUT_VERSION, Keys, conversation_of, home_of
from tidegate_server.store.layout import MOST_PARTITIONS, Layout
from tidegate_server.store.redis.partitioned import RedisPartition, stats_of
from tidegate_server.store.redis.runner import Runner

_PATIENCE_S = 60.0
_AT_ONCE = 200
_PAGE = 500
_DELETED = 500
_COUNTERS = ("seq", "fence")


class MoveRefused(TidegateError):
    """The move cannot begin, or go on. The text says what to do."""


@dataclass(frozen=True)
class End:
    """One end of a move."""

    address: Address
    prefix: str = "tg"

    def __str__(self) -> str:
        return f"{self.address.shown} (prefix {self.prefix!r})"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: keys of the source that were looked at, of how many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of a move: what the destination holds, and what this run of it brought."""

    stats: Stats
    conversations: int
    settled_batches: int
    partitions: int
    clock_difference_ms: int


async def move(
    source: End,
    destination: End,
    *,
    partitions: int,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Moved:
    """Move everything from one end to the other, or go on with a move that broke off.

    Raises:
        MoveRefused: It cannot begin. Nothing was changed, unless it had begun before.
        StoreUnavailable: A store went away; what was done stays done.
        StoreFull: The destination has no room; what was done stays done.
        StartupError: One of the stores is not fit for use.
    """
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise MoveRefused(f"the number of partitions must be 1 to {MOST_PARTITIONS}")
    async with AsyncExitStack() as stack:
        try:
            old = await stack.enter_async_context(_reached(source))
            new = await stack.enter_async_context(_reached(destination))
            return await _Move(old, new, partitions, progress).run()
        except (RedisError, OSError) as error:
            raise MoveRefused(
                f"one of the stores broke off: {error}; see that both answer, and repeat the move"
            ) from None


class _Reached:
    """An end that answers."""

    def __init__(self, end: End, client: Redis, replicas: int):
        self.end = end
        self.client = client
        self.keys = Keys(end.prefix)
        self._replicas = replicas

    async def layout(self) -> Layout:
        return await layout.read(self.client, self.end.prefix)

    async def write(self, **marks: str) -> None:
        await layout.write(self.client, self.end.prefix, marks)

    async def listeners(self) -> int:
        """Servers that use the store at the moment."""
        count = 0
        for place in await self.end.address.primaries():
            async with self.end.address.client(place) as client:
                found: Any = await client.pubsub_numsub(self.keys.notices)  # pyright: ignore[reportGeneralTypeIssues]
            count += sum(number for _, number in found)
        return count

    async def now_ms(self) -> int:
        seconds, micros = await self.client.time()  # pyright: ignore[reportGeneralTypeIssues]
        return int(seconds) * 1000 + int(micros) // 1000

    @asynccontextmanager
    async def runners(
        self, partitions: int, *, confirmed: bool = False
    ) -> AsyncGenerator[list[Runner]]:
        """A runner for each partition, under way. `confirmed`: by a replica, if there are any."""
        address, metrics = self.end.address, Metrics()
        made = [
            Runner(
                address.dialer(number),
                counters=metrics,
                prefix=self.end.prefix,
                partition=number,
                timeout=_PATIENCE_S,
                replicas=self._replicas if confirmed else 0,
            )
            for number in range(partitions)
        ]
        for runner in made:
            runner.pipeline.start()
        try:
            yield made
        finally:
            await asyncio.gather(*(runner.pipeline.stop() for runner in made))


@asynccontextmanager
async def _reached(end: End) -> AsyncGenerator[_Reached]:
    address, replicas = end.address, list[int]()
    for place in await address.primaries():
        async with address.client(place) as client:
            await inspect(client, cluster=address.kind == "cluster")
            replicas.append(int((await client.info("replication"))["connected_slaves"]))
    async with address.client(await address.home(Keys(end.prefix).layout)) as client:
        yield _Reached(end, client, min(1, *replicas))


class _Move:
    def __init__(
        self,
        source: _Reached,
        destination: _Reached,
        partitions: int,
        progress: Callable[[Progress], None],
    ):
        self._source = source
        self._destination = destination
        self._partitions = partitions
        self._progress = progress
        self._conversations = 0
        self._batches = 0

    async def run(self) -> Moved:
        await self._refuse_same()
        await self._refuse_listeners()
        name, partitions = await self._begin()
        await self._refuse_listeners()
        difference_ms = await self._destination.now_ms() - await self._source.now_ms()
        async with (
            self._source.runners(partitions) as old,
            self._destination.runners(self._partitions, confirmed=True) as new,
        ):
            left = (await self._source.layout()).is_left
            if not left and (await self._destination.layout()).arrived != name:
                await self._set_counters(old, new)
                await self._copy(old, new)
            await self._destination.write(arrived=name)
            await self._source.write(moved=name)
            await self._empty(old)
            stats = stats_of([await RedisPartition(runner).stats() for runner in new])
        return Moved(stats, self._conversations, self._batches, self._partitions, difference_ms)

    async def _refuse_same(self) -> None:
        """Refuse to move keys onto themselves, whatever the two URLs look like."""
        value, there = secrets.token_hex(8), self._destination
        await there.write(probe=value)
        seen = (await self._source.layout()).probe
        await there.client.hdel(there.keys.layout, "probe")  # pyright: ignore[reportGeneralTypeIssues]
        if seen == value:
            raise MoveRefused(
                "both ends are the same keys of the same store; give the destination another"
                " --to-prefix, or another store"
            )

    async def _refuse_listeners(self) -> None:
        for end in (self._source, self._destination):
            if count := await end.listeners():
                raise MoveRefused(
                    f"{count} of Tidegate's servers use {end.end}; stop them, and repeat the move"
                )

    async def _begin(self) -> tuple[str, int]:
        """Mark both ends, unless they are. The move's name, and the source's partitions."""
        old, new = await self._source.layout(), await self._destination.layout()
        source, destination = self._source.end, self._destination.end
        if not old.exists:
            raise MoveRefused(f"there is no store of Tidegate at {source}; nothing was moved")
        if old.moving and old.moving == new.arriving:
            if new.partitions != self._partitions:
                raise MoveRefused(
                    f"this move has begun, to {new.partitions} partitions; repeat it with"
                    f" --to-partitions {new.partitions}"
                )
            return old.moving, old.partitions
        if old.is_leaving:
            raise MoveRefused(f"a move from here to {old.to} has begun; repeat that one")
        if refusal := old.why_not(source.prefix):
            raise MoveRefused(refusal)
        await self._refuse_used(new)
        name = secrets.token_hex(8)
        await self._destination.client.delete(self._destination.keys.layout)
        await self._destination.write(
            version=str(LAYOUT_VERSION),
            partitions=str(self._partitions),
            arriving=name,
            origin=str(source),
        )
        await self._source.write(moving=name, to=str(destination))
        return name, old.partitions

    async def _refuse_used(self, found: Layout) -> None:
        """A destination that has been used is refused: nothing may be mixed."""
        begun = found.is_arriving
        async with self._destination.runners(max(self._partitions, found.partitions)) as runners:
            counters = await asyncio.gather(
                *(runner.call("EXISTS", runner.keys.shared("ctr")) for runner in runners)
            )
        if any(counters) or (found.exists and not found.is_left and not begun):
            raise MoveRefused(
                f"{self._destination.end} is in use already; give an empty store, or another"
                " --to-prefix"
            )

    async def _set_counters(self, old: Sequence[Runner], new: Sequence[Runner]) -> None:
        """Let every partition go on counting from the highest number that any has given out."""
        found = await asyncio.gather(
            *(runner.call("HMGET", runner.keys.shared("ctr"), *_COUNTERS) for runner in old)
        )
        most = [max(int(value or 0) for value in column) for column in zip(*found, strict=True)]
        pairs = [word for pair in zip(_COUNTERS, most, strict=True) for word in pair]
        await asyncio.gather(
            *(runner.call("HSET", runner.keys.shared("ctr"), *pairs) for runner in new)
        )

    async def _copy(self, old: Sequence[Runner], new: Sequence[Runner]) -> None:
        done, total = 0, 0
        async for page in self._pages(old):
            total += len(page)
        slots = asyncio.Semaphore(_AT_ONCE)
        async for page in self._pages(old):
            units = {unit for key in page if (unit := _unit(self._source.keys, key))}
            results = await asyncio.gather(
                *(self._carry(slots, old[number], new, *unit) for number, *unit in sorted(units)),
                return_exceptions=True,
            )
            for error in filter(None, results):
                raise error
            done += len(page)
            self._progress(Progress(min(done, total), total))

    async def _carry(
        self, slots: asyncio.Semaphore, old: Runner, new: Sequence[Runner], name: str, kinds: str
    ) -> None:
        async with slots:
            found = await parcel.read(old, name, kinds)
            if found is None:
                return
            home = new[home_of(conversation_of(found.cid), len(new))]
            if await parcel.put(home, found):
                self._conversations += kinds == parcel.OF_CONVERSATION
                self._batches += kinds == parcel.OF_BATCH

    async def _pages(self, old: Sequence[Runner]) -> AsyncIterator[list[str]]:
        """All keys of the source, which is at rest, some at a time, each at least once."""
        in_cluster = self._source.end.address.kind == "cluster"
        for runner in old if in_cluster else old[:1]:
            pattern = f"{runner.keys.base}*" if in_cluster else f"{runner.keys.prefix}:{{p*}}:*"
            cursor: Any = b"0"
            while True:
                cursor, found = await runner.call("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
                if found:
                    yield [key.decode() for key in found]
                if cursor == b"0":
                    break

    async def _empty(self, old: Sequence[Runner]) -> None:
        """Delete what has moved. The layout stays, and says so to a server that starts here."""
        async for page in self._pages(old):
            mine: dict[int, list[str]] = {}
            for key in page:
                mine.setdefault(_partition_in(self._source.keys, key), []).append(key)
            await asyncio.gather(
                *(
                    old[number].call("DEL", *keys[at : at + _DELETED])
                    for number, keys in mine.items()
                    for at in range(0, len(keys), _DELETED)
                )
            )


def _partition_in(keys: Keys, key: str) -> int:
    return int(key.removeprefix(f"{keys.prefix}:{{p").partition("}")[0])


def _unit(keys: Keys, key: str) -> tuple[int, str, str] | None:
    """What a key is a part of: its partition, the name, and the kinds of keys of its like."""
    number = _partition_in(keys, key)
    rest = key.removeprefix(Keys(keys.prefix, number).base)
    kind, _, name = rest.partition(":")
    for kinds in (parcel.OF_CONVERSATION, parcel.OF_BATCH):
        if kind and kind in kinds and len(kind) == 1:
            return number, name, kinds
    return None
