"""From a URL to a store that is fit for use."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from tidegate_server.errors import StartupError
from tidegate_server.logs import get_logger
from tidegate_server.store.base import StoreInfo
from tidegate_server.store.check import Demand, TooFewReplicas, inspect, weakest
from tidegate_server.store.dial import (
    Cluster,
    Dialer,
    Direct,
    Guide,
    Guided,
    Misdirected,
    Place,
    Sentinels,
    shown,
)
from tidegate_server.store.keys import LAYOUT_VERSION, Keys

_PARTITIONS = 1
_REPLICAS_POLL_S = 0.1
_PORTS = {"sentinel": 26_379, "cluster": 6_379}

_log = get_logger("tidegate.store")


@dataclass(frozen=True)
class Address:
    """Where a store is, and who asks. `timeout` is in seconds; secrets do not show in `repr`.

    `redis://`, `rediss://` (with TLS) and `unix://` name the store itself. `redis+sentinel://` has
    hosts of Sentinels and then the name that they have for the primary, `redis+cluster://` has
    hosts of some nodes of a cluster; `rediss+` before either means TLS everywhere.
    """

    url: str
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    timeout: float = 1.0
    embedded: bool = False

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL without its credentials."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    @property
    def kind(self) -> str:
        """What the URL names: "sentinel", "cluster", or "" for the store itself."""
        return self.url.partition("://")[0].partition("+")[2]

    def dialer(self, partition: int = 0) -> Dialer:
        """Opens connections to the node that takes the writes of a partition.

        They have no time limit of their own.
        """
        if self._guide is None:
            return Direct(self._maker(self.url))
        slot = key_slot(f"{{p{partition}}}".encode())
        return Guided(self._guide, slot, connect=self._connect, patience=self._patience)

    async def primaries(self) -> Sequence[Place | None]:
        """Every node that takes writes. None: the one that the URL names.

        Raises:
            RedisError, OSError: They cannot be found at the moment.
        """
        return await self._guide.primaries() if self._guide else [None]

    async def home(self, key: str) -> Place | None:
        """The node that has a key. Raises as `primaries`."""
        return (await self._guide.places(key_slot(key.encode())))[0] if self._guide else None

    def client(self, place: Place | None = None) -> Redis:
        """A client of one node, that of the URL if none is given, without retries."""
        return Redis.from_pool(self._pool(self._url(place) if place else self.url))

    @cached_property
    def _guide(self) -> Guide | None:
        """Shared by all partitions, so that they ask together."""
        if not self.kind:
            return None
        authority, _, path = self.url.partition("://")[2].partition("/")
        places = _places(authority.rpartition("@")[2], _PORTS[self.kind])
        if self.kind == "cluster":
            return Cluster(places, connect=self._connect, patience=self._patience)
        return Sentinels(
            places,
            unquote(path.partition("/")[0]),
            connect=lambda place: self._maker(self._url(place, database=0), known=False)(),
            connect_known=lambda place: self._maker(self._url(place, database=0))(),
            patience=self._patience,
        )

    @property
    def _patience(self) -> float:
        """For the Sentinels or nodes that are asked, and then for the node itself."""
        return self.timeout / 2

    def _connect(self, place: Place) -> AbstractConnection:
        return self._maker(self._url(place))()

    def _url(self, place: Place, *, database: int | None = None) -> str:
        scheme, _, rest = self.url.partition("://")
        if database is None:
            database = int(rest.split("/")[2]) if rest.count("/") > 1 else 0
        return f"{scheme.partition('+')[0]}://{shown(place)}/{database}"

    def _maker(self, url: str, *, known: bool = True) -> Callable[[], AbstractConnection]:
        pool = self._pool(url, known=known)
        pool.connection_kwargs["socket_timeout"] = None
        return pool.make_connection

    def _pool(self, url: str, *, known: bool = True) -> ConnectionPool:
        """A pool of connections that never repeat a command by themselves."""
        options: dict[str, Any] = {
            "socket_connect_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if known:
            options |= self._credentials
        if url.startswith("rediss://"):
            options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
            options["ssl_ca_certs"] = self.ca_file
        return ConnectionPool.from_url(url, **options)

    @property
    def _credentials(self) -> dict[str, str]:
        username, password = self.username, self.password
        if self.kind:
            inside = self.url.partition("://")[2].partition("/")[0].rpartition("@")[0]
            user, _, secret = inside.partition(":")
            username, password = username or unquote(user), password or unquote(secret)
        found = {"username": username, "password": password}
        return {name: value for name, value in found.items() if value}


async def prepare(
    address: Address,
    *,
    prefix: str,
    demand: Demand | None = None,
    wait: float = 30.0,
) -> StoreInfo:
    """Wait up to `wait` seconds for the store, then see whether it is fit for use.

    Raises:
        StartupError: It is away, refuses the credentials, or contradicts the promise.
    """
    demand = demand or Demand()
    until = asyncio.get_running_loop().time() + wait
    try:
        places = await _wait_for(address, wait)
        infos = [await _judged(address, place, demand, until) for place in places]
        async with address.client(await address.home(Keys(prefix).layout)) as client:
            await _claim_layout(client, prefix)
    except Misdirected as error:
        raise StartupError(str(error)) from None
    except (AuthenticationError, ResponseError) as error:
        raise StartupError(_refused(address, error)) from None
    except (RedisError, OSError) as error:
        raise StartupError(
            f"the store at {address.shown} broke off: {error}; start it and try again"
        ) from None
    return weakest(infos)


async def _wait_for(address: Address, wait: float) -> Sequence[Place | None]:
    """The primaries, once each of them answers."""
    told = False
    attempts = AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(wait),
        wait=wait_exponential(0.05, max=1),
        reraise=True,
    )
    places: Sequence[Place | None] = []
    try:
        async for attempt in attempts:
            with attempt:
                try:
                    places = await _answering(address)
                except (RedisError, OSError) as error:
                    if not told and wait and not isinstance(error, ResponseError):
                        told = True
                        _log.warning("waiting for the store", store=address.shown, seconds=wait)
                    raise
    except (AuthenticationError, ResponseError):
        raise
    except (RedisError, OSError) as error:
        raise StartupError(
            f"the store at {address.shown} cannot be reached ({error}); start it,"
            " or correct TIDEGATE_STORE_URL"
        ) from None
    return places


async def _answering(address: Address) -> Sequence[Place | None]:
    places = await address.primaries()
    for place in places:
        async with address.client(place) as client:
            await client.ping()
    return places


async def _judged(address: Address, place: Place | None, demand: Demand, until: float) -> StoreInfo:
    """What one node is good for. A replica that is missing may still come, `until` the loop's time.

    Raises:
        StartupError: The node contradicts the promise. The text names it, if there are several.
    """
    loop = asyncio.get_running_loop()
    async with address.client(place) as client:
        while True:
            try:
                return await inspect(
                    client, demand, embedded=address.embedded, cluster=address.kind == "cluster"
                )
            except TooFewReplicas as error:
                if loop.time() >= until:
                    raise _named(error, place) from None
            except StartupError as error:
                raise _named(error, place) from None
            await asyncio.sleep(_REPLICAS_POLL_S)


def _named(error: StartupError, place: Place | None) -> StartupError:
    return StartupError(f"{shown(place)}: {error}") if place else error


def _places(hosts: str, port: int) -> list[Place]:
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    return [(part.hostname or "localhost", part.port or port) for part in parts]


def _may_pass(error: BaseException) -> bool:
    refusals = (AuthenticationError, ResponseError)
    return isinstance(error, RedisError | OSError) and not isinstance(error, refusals)


async def _claim_layout(client: Redis, prefix: str) -> None:
    key = Keys(prefix).layout
    wanted = {"version": LAYOUT_VERSION, "partitions": _PARTITIONS}
    for field, value in wanted.items():
        await client.hsetnx(key, field, str(value))
    stored: dict[bytes, bytes] = await client.hgetall(key)  # pyright: ignore[reportAssignmentType]
    found = {name.decode(): int(value) for name, value in stored.items()}
    if found != wanted:
        raise StartupError(
            f"the store's keys under {prefix!r} have layout {found}, this server needs {wanted};"
            " use the version that wrote them, or another TIDEGATE_STORE_PREFIX"
        )


def _refused(address: Address, error: Exception) -> str:
    return (
        f"the store at {address.shown} refuses: {error};"
        " correct TIDEGATE_STORE_URL, TIDEGATE_STORE_USERNAME or TIDEGATE_STORE_PASSWORD"
    )
