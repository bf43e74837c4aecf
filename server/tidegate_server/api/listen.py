"""Where the server listens: TCP ports and unix sockets that no second server can take over.

Only ports speak TLS. A socket is its owner's alone.
"""

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from tidegate_server.config.tls import Certificate
from tidegate_server.errors import StartupError


class Listeners:
    """The addresses of a server, such as "127.0.0.1:7460", "[::1]:0" or "unix:/run/tidegate".

    `certificate` is that of the ports, asked at every handshake; None: no TLS.
    """

    def __init__(
        self, addresses: Sequence[str], certificate: Callable[[], Certificate] | None = None
    ):
        self._wanted = addresses
        self._certificate = certificate
        self._sockets: list[UnixSocket] = []
        self.addresses: list[str] = []

    def bind(self, server: grpc.aio.Server) -> None:
        """Bind every address; `addresses` then has the real ports.

        Raises:
            StartupError: One of them is taken, or not to be had.
        """
        for address in self._wanted:
            self.addresses.append(self._bind(server, address))

    def release(self) -> None:
        """Leave the unix sockets to others. The server must have stopped."""
        while self._sockets:
            self._sockets.pop().release()

    def _bind(self, server: grpc.aio.Server, address: str) -> str:
        if address.startswith("unix:"):
            unix = UnixSocket(Path("/" + address.removeprefix("unix:").lstrip("/")))
            unix.hold()
            self._sockets.append(unix)
            # gRPC makes the socket with the process's mask; nobody else may ever get in.
            mask = os.umask(0o177)
            try:
                _add_port(server, f"unix:{unix.path}", address)
            finally:
                os.umask(mask)
            return address
        host, _, port = address.rpartition(":")
        _see_if_free(host.strip("[]"), int(port), address)
        # One for each port: what tells gRPC of a new certificate tells it once.
        credentials = _credentials(self._certificate) if self._certificate else None
        return f"{host}:{_add_port(server, address, address, credentials)}"


class UnixSocket:
    """The path of a unix socket, kept from other servers by a lock on a file beside it."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None

    def hold(self) -> None:
        """Take the path: clear away the socket of a server that has died.

        Raises:
            StartupError: Another server has it, or it cannot be used.
        """
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clear_away()
        except BlockingIOError:
            self._unlock()
            raise StartupError(_taken(f"unix:{self.path}")) from None
        except OSError as error:
            self._unlock()
            raise StartupError(
                f"TIDEGATE_LISTEN: unix:{self.path} cannot be used ({error.strerror}); choose a "
                "path in a folder that exists and that this user may write to"
            ) from None
        except StartupError:
            self._unlock()
            raise

    def release(self) -> None:
        """Remove the socket and give the path up."""
        # The lock file stays: a server that waits for it would else lock one that is gone.
        self.path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _clear_away(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise StartupError(
                f"TIDEGATE_LISTEN: {self.path} is no socket; remove it or choose another path"
            )
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.path)) == 0:
                raise StartupError(_taken(f"unix:{self.path}"))
        self.path.unlink()


def _see_if_free(host: str, port: int, address: str) -> None:
    """Refuse a port that is taken before gRPC does, which first writes a line of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError:
        raise StartupError(_taken(address)) from None


def _add_port(
    server: grpc.aio.Server,
    target: str,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(target)
        return server.add_secure_port(target, credentials)
    except RuntimeError:
        raise StartupError(_taken(address)) from None


def _credentials(certificate: Callable[[], Certificate]) -> grpc.ServerCredentials:
    """Credentials of one port, with the certificate in force at each handshake."""
    told = certificate()

    def news() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        if (newest := certificate()) is told:
            return None
        told = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(told),
        news,  # pyright: ignore[reportArgumentType]  # None is documented: nothing is new
        require_client_authentication=told.client_ca is not None,
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pair = certificate.key, certificate.chain
    return grpc.ssl_server_certificate_configuration([pair], certificate.client_ca)


def _taken(address: str) -> str:
    return (
        f"TIDEGATE_LISTEN: cannot listen on {address}, because another program does or because "
        "the address is none of this machine; stop that program or choose another address"
    )
