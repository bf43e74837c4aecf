"""Builds the server's parts, starts them in order and stops them in the reverse one."""

import asyncio
import gc
import secrets
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from tidegate_server.api.admin import ServerFacts
from tidegate_server.api.push import batch_json
from tidegate_server.api.server import ApiServer, ApiSettings
from tidegate_server.config import Push, Settings
from tidegate_server.engine.engine import Engine
from tidegate_server.engine.pusher import Pusher
from tidegate_server.errors import StoreUnavailable
from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics
from tidegate_server.protection import Protection
from tidegate_server.store.base import Store, StoreInfo
from tidegate_server.store.check import Demand
from tidegate_server.store.connect import Address, prepare
from tidegate_server.store.embedded import EmbeddedStore
from tidegate_server.store.redis import RedisStore, Rules

_log = get_logger("tidegate")


class App:
    """One server. `run` serves until it is told to stop by SIGTERM, SIGINT or `stop`."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._metrics = Metrics()
        self._stopping = asyncio.Event()
        self._store: RedisStore | None = None
        self._engine: Engine | None = None
        self._demand = Demand(settings.durability, settings.store_replicas)
        self.addresses: list[str] = []
        self.http_port = 0

    def stop(self) -> None:
        """Drain and end."""
        self._stopping.set()

    async def run(self) -> None:
        """Start, serve, drain, end.

        Raises:
            StartupError: It cannot start; the text says what to change.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack))
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
            if not starting.cancelled():
                starting.result()
            await stopping
            _log.info("stopping")
        _log.info("stopped")

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        protection = Protection(settings)
        await stack.enter_async_context(protection.renewed())
        address = await self._store_address(stack)
        info = await prepare(
            address,
            prefix=settings.store_prefix,
            demand=self._demand,
            wait=settings.store_wait.total_seconds(),
        )
        for warning in (*info.warnings, *_exposure(settings)):
            _log.warning(warning)
        self._store = store = await stack.enter_async_context(self._running_store(address))
        self._engine = engine = Engine(
            self._sealed(store),
            metrics=self._metrics,
            lease_ms=_ms(settings.lease),
            late_after_ms=_ms(settings.late_after),
            max_subscribers=settings.max_subscribers,
            events=settings.events,
        )
        pushers = await stack.enter_async_context(self._pushers(engine))
        api = await stack.enter_async_context(self._running_api(engine, info, pushers, protection))
        self.addresses = api.addresses
        if settings.http_listen:
            self.http_port = await self._start_ops(stack, protection)
        _settle_memory()
        api.set_serving(True)
        _log.info(
            "serving",
            version=version("tidegate"),
            listen=", ".join(self.addresses),
            http=self.http_port or "off",
            store=_shown(info),
            durability=info.durability,
        )

    async def _store_address(self, stack: AsyncExitStack) -> Address:
        """The store's address; without one in the settings, that of a store of our own."""
        settings, timeout = self._settings, self._settings.store_timeout.total_seconds()
        if settings.store_url is None:
            embedded = EmbeddedStore(settings.data_dir)
            await embedded.start()
            stack.push_async_callback(embedded.stop)
            return Address(embedded.url, timeout=timeout, embedded=True)
        password = settings.store_password
        return Address(
            settings.store_url,
            username=settings.store_username,
            password=password.get_secret_value() if password else None,
            ca_file=str(settings.store_ca_file) if settings.store_ca_file else None,
            timeout=timeout,
        )

    @asynccontextmanager
    async def _running_store(self, address: Address) -> AsyncGenerator[RedisStore]:
        settings = self._settings
        store = RedisStore(
            address.dialer(),
            counters=self._metrics,
            prefix=settings.store_prefix,
            timeout=address.timeout,
            replicas=self._demand.confirmations,
            rules=Rules(
                retry=settings.retry_policy,
                default_policy=settings.policy(""),
                quota=settings.quota,
                deduplication_ms=_ms(settings.deduplication),
                retain_status_ms=_ms(settings.retain_status),
                retain_processed_ms=_ms(settings.retain_processed),
            ),
        )
        store.start()
        try:
            yield store
        finally:
            await store.stop()

    def _sealed(self, store: Store) -> Store:
        """The store as the server sees it; with keys, what lies in it is encrypted."""
        bodies, names = self._settings.encryption_keys_file, self._settings.name_key_file
        if bodies is None and names is None:
            return store
        # Brings cryptography, which a server without keys does without.
        from tidegate_server.store.sealed import SealedStore
        from tidegate_server.store.sealing import Seals, load_keyring, load_name_key

        return SealedStore(
            store, Seals(bodies and load_keyring(bodies), names and load_name_key(names))
        )

    @asynccontextmanager
    async def _running_api(
        self, engine: Engine, info: StoreInfo, pushers: Sequence[Pusher], protection: Protection
    ) -> AsyncGenerator[ApiServer]:
        """Engine, pushers and gRPC server. At the end streams close first, then calls, then timers.

        Pushers end with the streams.
        """
        settings = self._settings
        api = ApiServer(
            engine,
            listen=[str(address) for address in settings.listen],
            facts=self._facts(engine, info),
            metrics=self._metrics,
            policy=settings.policy,
            fallback=settings.fallback,
            max_delay_ms=lambda instance: _ms(settings.max_delay(instance)),
            settings=ApiSettings(_ms(settings.lease), _ms(settings.heartbeat)),
            guard=protection.guard,
            certificate=protection.certificate,
        )
        await engine.start()
        try:
            for pusher in pushers:
                pusher.start()
            await api.start()
            yield api
        finally:
            grace = settings.drain_timeout.total_seconds()
            api.set_serving(False)
            await engine.drain(grace)
            await api.stop(grace)
            await engine.stop()

    @asynccontextmanager
    async def _pushers(self, engine: Engine) -> AsyncGenerator[list[Pusher]]:
        """A pusher for each endpoint, not started. At the end what they have under way is cut."""
        async with AsyncExitStack() as stack:
            pushers: list[Pusher] = []
            for instance, push in self._settings.endpoints.items():
                pusher = self._pusher(stack, engine, instance, push)
                stack.push_async_callback(pusher.stop)
                pushers.append(pusher)
            yield pushers

    def _pusher(self, stack: AsyncExitStack, engine: Engine, instance: str, push: Push) -> Pusher:
        # Brings aiohttp, which a server without endpoints does without.
        from tidegate_server.sinks.http import HttpEndpoint

        endpoint = HttpEndpoint(
            push.url,
            token=push.bearer,
            keys=push.keys,
            allow_private=push.allow_private,
            agent=f"tidegate/{version('tidegate')}",
        )
        stack.push_async_callback(endpoint.close)
        most = self._settings.retry_policy.max_attempts
        return Pusher(
            engine,
            instance,
            endpoint=endpoint,
            body=lambda batch: batch_json(batch, most),
            metrics=self._metrics,
            max_in_flight=push.max_in_flight,
            timeout_ms=_ms(push.timeout),
        )

    async def _start_ops(self, stack: AsyncExitStack, protection: Protection) -> int:
        # Brings aiohttp and prometheus-client, which a server without HTTP does without.
        from tidegate_server.ops.http import OpsServer

        store = self._store
        if store is None:
            raise StoreUnavailable("the store is not there yet")
        ops = OpsServer(
            self._settings.http_listen,
            metrics=self._metrics,
            ready=self._not_ready,
            gauges=store.stats,
            guard=protection.guard,
            certificate=protection.certificate,
        )
        await ops.start()
        stack.push_async_callback(ops.stop)
        return ops.port

    def _not_ready(self) -> str | None:
        if self._stopping.is_set():
            return "the server is shutting down"
        if self._store is None or self._store.away:
            return "the store cannot be reached"
        return None

    def _facts(self, engine: Engine, info: StoreInfo) -> ServerFacts:
        settings = self._settings
        return ServerFacts(
            version=version("tidegate"),
            replica_id=secrets.token_hex(4),
            started_at_ms=engine.clock.now_ms(),
            default_policy=settings.policy(""),
            max_message_bytes=settings.max_message_bytes,
            max_attempts=settings.retry_policy.max_attempts,
            durability=info.durability,
            store=_shown(info),
            capabilities=_capabilities(settings),
        )


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for. asyncio's own words would quote the error and what it quotes."""
    _log.error(context.get("message", "a task failed"), exc_info=context.get("exception"))


def _exposure(settings: Settings) -> list[str]:
    """What is said of gRPC that is open to whoever reaches it."""
    where = ", ".join(str(a) for a in settings.listen if a in settings.exposed)
    text = f"{where} is open to whoever reaches it, or listens on the way"
    return [f"{text}; set up TLS and tokens unless you trust that network"] if where else []


def _capabilities(settings: Settings) -> tuple[str, ...]:
    optional = {"watch-events": settings.events, "http-push": settings.endpoints}
    in_force = (name for name, is_on in optional.items() if is_on)
    return ("policy-override", "stream-messages", "superseded", *in_force)


def run(settings: Settings) -> None:
    """Serve in this process until it is told to stop. Raises as `App.run`."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(settings))
    else:
        uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    await App(settings).run()


def _settle_memory() -> None:
    """Keep the garbage collector from walking all modules again and again while messages wait.

    What is there now stays; a full collection took 50 ms about once a second under load.
    """
    gc.collect()
    gc.freeze()


def _shown(info: StoreInfo) -> str:
    return f"{info.product} {info.version}" + (", embedded" if info.embedded else "")


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
