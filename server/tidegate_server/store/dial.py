"""The way to the node that takes the writes: straight, or by asking Sentinels or a Cluster."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as StoreConnectionError

Place = tuple[str, int]
"""Host and port of a node."""
Connect = Callable[[Place], AbstractConnection]
"""Makes a connection to a node, not open yet."""

SLOTS = 16_384
_ASKED_AT_ONCE = 3


class Dialer(Protocol):
    """Opens connections for one partition of the store."""

    async def open(self) -> AbstractConnection:
        """An open connection to the node that takes the writes; each time it is found anew.

        Raises:
            RedisError, OSError: There is none at the moment.
        """
        ...


class Guide(Protocol):
    """Knows where the primaries are."""

    async def places(self, slot: int) -> Sequence[Place]:
        """Where the primary of a slot is, the likeliest place first."""
        ...

    async def primaries(self) -> Sequence[Place]:
        """Every primary."""
        ...


class Misdirected(ResponseError):
    """The store's URL does not fit what answers there. The text is a sentence for people."""


class Direct:
    """Opens connections to one address."""

    def __init__(self, make: Callable[[], AbstractConnection]):
        self._make = make

    async def open(self) -> AbstractConnection:
        """As `Dialer` says."""
        return await _opened(self._make())


class Guided:
    """Opens connections to where a guide sends it. `patience` is for each place, in seconds."""

    def __init__(self, guide: Guide, slot: int, *, connect: Connect, patience: float):
        self._guide = guide
        self._slot = slot
        self._connect = connect
        self._patience = patience

    async def open(self) -> AbstractConnection:
        """As `Dialer` says."""
        failure: Exception = StoreConnectionError("no node of the store is known")
        for place in await self._guide.places(self._slot):
            try:
                async with asyncio.timeout(self._patience):
                    return await self._open_primary(place)
            except (RedisError, OSError) as error:
                failure = error
        raise failure

    async def _open_primary(self, place: Place) -> AbstractConnection:
        connection = await _opened(self._connect(place))
        try:
            role, *_ = await _said(connection, "ROLE")
            if role != b"master":
                raise StoreConnectionError(f"{shown(place)} is no primary at the moment")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


class Sentinels:
    """Asks all Sentinels at once and believes most of them. `patience` is in seconds.

    `connect` goes without credentials; `connect_known` with those of the store, for Sentinels
    that want some.
    """

    def __init__(
        self,
        places: Sequence[Place],
        service: str,
        *,
        connect: Connect,
        connect_known: Connect,
        patience: float,
    ):
        self._places = places
        self._service = service
        self._connect = connect
        self._connect_known = connect_known
        self._patience = patience

    async def places(self, slot: int) -> Sequence[Place]:
        """As `Guide` says; every slot is at the one primary."""
        answers = await _answers((self._ask(place) for place in self._places), self._patience)
        named = [(host.decode(), int(port)) for host, port in filter(None, answers)]
        if not named:
            raise Misdirected(
                f"the Sentinels know no service {self._service!r}: correct its name in"
                " TIDEGATE_STORE_URL, after the last host"
            )
        return _by_votes(named)

    async def primaries(self) -> Sequence[Place]:
        """As `Guide` says: the one."""
        return (await self.places(0))[:1]

    async def _ask(self, place: Place) -> Any:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        try:
            try:
                return await _asked(self._connect(place), *question)
            except (AuthenticationError, NoPermissionError):
                return await _asked(self._connect_known(place), *question)
        except ResponseError as error:
            if "unknown command" not in str(error).lower():
                raise
            raise Misdirected(
                f"what answers at {shown(place)} is no Sentinel: use the URL of Sentinels, or"
                " redis://host:port for a store alone"
            ) from None


class _Map:
    """Who has which slots, as one node said. A node without a name is the one that was asked."""

    def __init__(self, said: Any, asked: Place):
        self.parts: list[tuple[range, Place]] = []
        self.nodes: set[Place] = set()
        for first, last, *nodes in said:
            places = [((host or b"").decode() or asked[0], port) for host, port, *_ in nodes]
            self.parts.append((range(first, last + 1), places[0]))
            self.nodes.update(places)
        self.size = sum(len(slots) for slots, _ in self.parts)

    def primary(self, slot: int) -> Place | None:
        """The slot's primary, if there is one."""
        return next((place for slots, place in self.parts if slot in slots), None)


class Cluster:
    """Asks three nodes at once for the map of slots and believes most. `patience` is in seconds.

    What is asked while a question is under way shares its answer.
    """

    def __init__(self, seeds: Sequence[Place], *, connect: Connect, patience: float):
        self._seeds = seeds
        self._connect = connect
        self._patience = patience
        self._known: set[Place] = set()
        self._asking: asyncio.Task[list[_Map]] | None = None

    async def places(self, slot: int) -> Sequence[Place]:
        """As `Guide` says."""
        found = [place for slots in await self._maps() if (place := slots.primary(slot))]
        if not found:
            raise StoreConnectionError("no node of the cluster has the slot of the keys")
        return _by_votes(found)

    async def primaries(self) -> Sequence[Place]:
        """As `Guide` says, once every slot has one."""
        slots = max(await self._maps(), key=lambda slots: slots.size)
        if slots.size < SLOTS:
            raise StoreConnectionError(
                f"only {slots.size} of the cluster's {SLOTS} slots have a node"
            )
        return [*dict.fromkeys(place for _, place in slots.parts)]

    async def _maps(self) -> list[_Map]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_some(), name="store slots")
            # Whoever asked may have been cancelled: its failure is then nobody's.
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._asking)

    async def _ask_some(self) -> list[_Map]:
        nodes = [*self._known.union(self._seeds)]
        some = random.sample(nodes, min(_ASKED_AT_ONCE, len(nodes)))
        maps = await _answers((self._ask(place) for place in some), self._patience)
        self._known = {place for slots in maps for place in slots.nodes}
        return maps

    async def _ask(self, place: Place) -> _Map:
        try:
            return _Map(await _asked(self._connect(place), "CLUSTER", "SLOTS"), place)
        except ResponseError as error:
            text = str(error).lower()
            if "cluster support disabled" not in text and "unknown command" not in text:
                raise
            raise Misdirected(
                f"what answers at {shown(place)} is no cluster: use redis://host:port for a store"
                " alone, or redis+sentinel:// for one that Sentinels watch"
            ) from None


def shown(place: Place) -> str:
    """A place as people write it."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _by_votes(named: Iterable[Place]) -> list[Place]:
    return [place for place, _ in Counter(named).most_common()]


async def _answers(questions: Iterable[Coroutine[Any, Any, Any]], patience: float) -> list[Any]:
    """The answers that came in time; if none did, the most telling failure."""
    tasks = [asyncio.create_task(question) for question in questions]
    try:
        await asyncio.wait(tasks, timeout=patience)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if answers:
        return answers
    failures = [outcome for outcome in outcomes if isinstance(outcome, RedisError | OSError)]
    raise max(failures, key=_telling, default=TimeoutError("no node answered in time"))


def _telling(error: Exception) -> bool:
    return isinstance(error, ResponseError | AuthenticationError)


async def _opened(connection: AbstractConnection) -> AbstractConnection:
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def _said(connection: AbstractConnection, *words: str) -> Any:
    await connection.send_command(*words)
    return await connection.read_response(disable_decoding=True)


async def _asked(connection: AbstractConnection, *words: str) -> Any:
    try:
        await connection.connect()
        return await _said(connection, *words)
    finally:
        await connection.disconnect(nowait=True)
