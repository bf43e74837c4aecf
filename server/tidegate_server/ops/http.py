"""Health, readiness and metrics over HTTP, for probes and scrapers."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tidegate_server.config import Address
from tidegate_server.config.addresses import parse_address
from tidegate_server.config.tls import Certificate
from tidegate_server.core.access import Role
from tidegate_server.errors import BadCredentials, NotAllowed, StartupError, TidegateError
from tidegate_server.guard import Guard
from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics
from tidegate_server.ops.exposition import exposition
from tidegate_server.store.base import Stats

SCRAPE_TIMEOUT_SECONDS = 2.0
LONGEST_LINE, LONGEST_BODY = 8 << 10, 1 << 10

_INDEX = """Tidegate

/healthz  200 while the process lives
/readyz   200 if it can take messages, else 503 and why not
/metrics  for Prometheus
"""

_log = get_logger("tidegate.ops")


class OpsServer:
    """Serves `/healthz`, `/readyz` and `/metrics`.

    `ready` says in one sentence why the server cannot take messages, or None if it can. `gauges`
    asks the store; a scrape calls it once, and does without it if it fails or takes 2 s. Metrics
    are for tokens of the role admin, if `guard` knows tokens, and for clients with a certificate,
    if `certificate` says who signs those; the rest is for all, since probes have neither.
    """

    def __init__(
        self,
        listen: Sequence[Address] | str,
        *,
        metrics: Metrics,
        ready: Callable[[], str | None],
        gauges: Callable[[], Awaitable[Stats]],
        guard: Guard | None = None,
        certificate: Callable[[], Certificate] | None = None,
    ):
        self._guard = guard or Guard()
        self._certificate = certificate
        self._listen = [parse_address(listen)] if isinstance(listen, str) else list(listen)
        self._metrics = metrics
        self._ready = ready
        self._gauges = gauges
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            shutdown_timeout=1.0,
            # No body is ever read.
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

    async def start(self) -> None:
        """Listen.

        Raises:
            StartupError: An address cannot be listened on; then none is.
        """
        logging.getLogger("aiohttp.server").addFilter(_is_news)
        await self._runner.setup()
        context = _context(self._certificate) if self._certificate else None
        for address in self._listen:
            try:
                site = web.TCPSite(self._runner, address.host, address.port, ssl_context=context)
                await site.start()
            except OSError as error:
                await self._runner.cleanup()
                raise StartupError(
                    f"TIDEGATE_HTTP_LISTEN names {address}, which cannot be listened on"
                    f" ({_reason(error)}); stop what uses it or choose another address"
                ) from None

    async def stop(self) -> None:
        """Stop listening, and finish what is under way within a second."""
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port of the first address; 0 before `start`."""
        addresses = self._runner.addresses
        return addresses[0][1] if addresses else 0

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[_in_plain_words], client_max_size=LONGEST_BODY)
        app.router.add_get("/", self._get_index)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_readiness)
        app.router.add_get("/metrics", self._get_metrics)
        return app

    async def _get_index(self, request: web.Request) -> web.Response:
        return web.Response(text=_INDEX)

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _get_readiness(self, request: web.Request) -> web.Response:
        reason = self._ready()
        return web.Response(text=reason or "ready", status=503 if reason else 200)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        self._must_be_allowed(request)
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_SECONDS):
                stats = await self._gauges()
        except (TidegateError, TimeoutError, OSError):
            stats = None
        body = exposition(self._metrics, stats)
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _must_be_allowed(self, request: web.Request) -> None:
        """Raises `BadCredentials` or `NotAllowed` for who may not see the metrics."""
        access = self._guard.admit(request.headers.get("Authorization", ""))
        access.must_have(Role.ADMIN)
        access.one(None)
        wants = self._certificate is not None and self._certificate().client_ca is not None
        if wants and not (request.transport and request.transport.get_extra_info("peercert")):
            raise NotAllowed("this server wants a certificate of its client here")


@web.middleware
async def _in_plain_words(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        text = "Only GET is answered here."
        return web.Response(text=text, status=405, headers={"Allow": error.headers["Allow"]})
    except web.HTTPNotFound:
        return web.Response(text="Nothing is here; GET / says what there is.", status=404)
    except BadCredentials as error:
        text = f"{error}."
        return web.Response(text=text, status=401, headers={"WWW-Authenticate": "Bearer"})
    except NotAllowed as error:
        return web.Response(text=f"{error}.", status=403)
    except web.HTTPException:
        raise
    except Exception:
        _log.exception("request failed", path=request.rel_url.path)
        return web.Response(text="This failed; the server's log says why.", status=500)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the library has more to say than that some bytes are no HTTP: they have their 400."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _context(certificate: Callable[[], Certificate]) -> ssl.SSLContext:
    """A context that hands each handshake on to that of the certificate in force."""
    context = certificate().context

    def hand_on(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = certificate().context

    context.sni_callback = hand_on
    return context


def _reason(error: OSError) -> str:
    """The end of asyncio's "error while attempting to bind on address ...: address in use"."""
    return (error.strerror or str(error)).rpartition(": ")[2]
