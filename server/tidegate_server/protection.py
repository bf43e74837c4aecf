"""The tokens and the certificate of a running server, replaced when their files are."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from tidegate_server.config import Settings
from tidegate_server.config.tls import Certificate, read_certificate
from tidegate_server.config.tokens import read_tokens
from tidegate_server.config.watched import Watched
from tidegate_server.core.access import Tokens
from tidegate_server.errors import StartupError
from tidegate_server.guard import Guard

LOOK_S = 1.0


class Protection:
    """`guard` and `certificate` of a server, None for no TLS; both change while `renewed` is on.

    Raises `StartupError` for files that cannot be used.
    """

    def __init__(self, settings: Settings):
        try:
            self._tokens = _tokens(settings)
            self._certificates = _certificates(settings)
        except ValueError as error:
            raise StartupError(f"a file of TLS or of tokens must be {error}") from None
        self.guard = Guard(self._tokens.value if self._tokens else None)
        self.certificate: Callable[[], Certificate] | None = None
        if certificates := self._certificates:
            self.certificate = lambda: certificates.value

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None]:
        """Look at the files every second; calls under way go on."""
        looking = asyncio.create_task(self._look_forever())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look_forever(self) -> None:
        while self._tokens or self._certificates:
            await asyncio.sleep(LOOK_S)
            if self._certificates:
                await asyncio.to_thread(self._certificates.look)
            if self._tokens and await asyncio.to_thread(self._tokens.look):
                self.guard.replace(self._tokens.value)


def _tokens(settings: Settings) -> Watched[Tokens] | None:
    if (file := settings.tokens_file) is None:
        return None
    return Watched("file of tokens", [file], lambda: read_tokens(file))


def _certificates(settings: Settings) -> Watched[Certificate] | None:
    chain, key, ca = settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
    if chain is None or key is None:
        return None
    files = [chain, key, ca] if ca else [chain, key]
    return Watched("certificate", files, lambda: read_certificate(chain, key, ca))
