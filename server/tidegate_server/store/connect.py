"""From a URL to a store that is fit for use."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from tidegate_server.errors import StartupError
from tidegate_server.logs import get_logger
from tidegate_server.store import layout
from tidegate_server.store.base import StoreInfo
from tidegate_server.store.check import Durability, inspect

_PARTITIONS = 1

_log = get_logger("tidegate.store")


@dataclass(frozen=True)
class Address:
    """Where a store is, and who asks. `timeout` is in seconds; secrets do not show in `repr`."""

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

    def pool(self) -> ConnectionPool:
        """A pool of connections that never repeat a command by themselves."""
        options: dict[str, Any] = {
            "socket_connect_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if self.username:
            options["username"] = self.username
        if self.password:
            options["password"] = self.password
        if self.url.startswith("rediss://"):
            options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
            options["ssl_ca_certs"] = self.ca_file
        return ConnectionPool.from_url(self.url, **options)

    def connector(self) -> Callable[[], AbstractConnection]:
        """Makes connections that are not open yet and have no time limit of their own."""
        pool = self.pool()
        pool.connection_kwargs["socket_timeout"] = None
        return pool.make_connection


async def prepare(
    address: Address, *, prefix: str, wanted: Durability | None = None, wait: float = 30.0
) -> StoreInfo:
    """Wait up to `wait` seconds for the store, then see whether it is fit for use.

    Raises:
        StartupError: It is away, refuses the credentials, or contradicts the promise.
    """
    pool = address.pool()
    client = Redis(connection_pool=pool)
    try:
        await _wait_for(client, address, wait)
        info = await inspect(client, wanted=wanted, embedded=address.embedded)
        partitions = await layout.claim(client, prefix, partitions=_PARTITIONS)
    except (AuthenticationError, ResponseError) as error:
        raise StartupError(_refused(address, error)) from None
    except (RedisError, OSError) as error:
        raise StartupError(
            f"the store at {address.shown} broke off: {error}; start it and try again"
        ) from None
    finally:
        await client.aclose()
        await pool.aclose()
    return replace(info, partitions=partitions)


async def _wait_for(client: Redis, address: Address, wait: float) -> None:
    told = False
    attempts = AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(wait),
        wait=wait_exponential(0.05, max=1),
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                try:
                    await client.ping()
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


def _may_pass(error: BaseException) -> bool:
    refusals = (AuthenticationError, ResponseError)
    return isinstance(error, RedisError | OSError) and not isinstance(error, refusals)


def _refused(address: Address, error: Exception) -> str:
    return (
        f"the store at {address.shown} refuses: {error};"
        " correct TIDEGATE_STORE_URL, TIDEGATE_STORE_USERNAME or TIDEGATE_STORE_PASSWORD"
    )
