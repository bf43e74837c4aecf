"""How to reach a server: options, retries, deadlines, and one connection for each client."""

import asyncio
import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tidegate import errors
from tidegate.errors import InvalidArgument, TidegateError
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import admin_service_pb2_grpc as admin_grpc
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import buffer_service_pb2_grpc as buffer_grpc
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import delivery_service_pb2_grpc as delivery_grpc

if TYPE_CHECKING:
    AddStream = grpc.aio.StreamStreamCall[
        buffer_pb2.StreamMessagesRequest, buffer_pb2.StreamMessagesResponse
    ]

DEFAULT_TARGET = "127.0.0.1:7460"

Token = str | Callable[[], str]
File = str | Path

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")
_Event = TypeVar("_Event", covariant=True)

# The contract's "Deadline:" lines, in seconds. That of a pull depends on its wait.
DEADLINES: dict[type[Message], float] = {
    buffer_pb2.AddMessageRequest: 1,
    buffer_pb2.AddMessagesRequest: 5,
    buffer_pb2.GetStatusRequest: 1,
    buffer_pb2.FlushRequest: 1,
    buffer_pb2.HoldWindowRequest: 1,
    buffer_pb2.AmendMessageRequest: 1,
    buffer_pb2.RemoveMessageRequest: 1,
    buffer_pb2.DiscardRequest: 1,
    delivery_pb2.AckBatchRequest: 5,
    delivery_pb2.NackBatchRequest: 5,
    delivery_pb2.ExtendLeaseRequest: 5,
    admin_pb2.GetServerInfoRequest: 1,
    admin_pb2.GetStatsRequest: 2,
    admin_pb2.ListConversationsRequest: 5,
    admin_pb2.ListDeadLettersRequest: 5,
    admin_pb2.GetBatchRequest: 2,
    admin_pb2.TrackMessageRequest: 2,
    admin_pb2.RequeueDeadLettersRequest: 10,
    admin_pb2.DeleteDeadLettersRequest: 10,
    admin_pb2.EraseConversationRequest: 10,
}
PULL_MARGIN = timedelta(seconds=5)


def _methods() -> Iterator[MethodDescriptor]:
    for file in (buffer_pb2, delivery_pb2, admin_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def _is_retried(method: MethodDescriptor) -> bool:
    """A repeated Pull would lease further batches; a stream is reopened by its reader."""
    return not (method.client_streaming or method.server_streaming or method.name == "Pull")


def service_config() -> dict[str, Any]:
    """The gRPC service config, as it is published beside the protos. Retries and nothing else."""
    return {
        "methodConfig": [
            {
                "name": [
                    {"service": method.containing_service.full_name, "method": method.name}
                    for method in _methods()
                    if _is_retried(method)
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # A server that stops cancels the calls that it has not begun with.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }


OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(service_config())),
    # A dead connection is noticed; without the third option pings stop after two.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The default waits up to two minutes for a server that restarts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_SCHEME = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):\d{1,5}")


def check_target(target: str) -> str:
    """The target, if it looks like one. Raises InvalidArgument."""
    if _SCHEME.match(target) or _HOST_AND_PORT.fullmatch(target):
        return target
    raise InvalidArgument(
        f'"{target}" is no address of a server; give host:port, such as "{DEFAULT_TARGET}", '
        'or "unix:/path/to/socket"'
    )


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of every call. Raises InvalidArgument for a token no header can carry."""
    if token is None:
        return ()
    if not re.fullmatch(r"[!-~]+", token):
        raise InvalidArgument(
            "the token may hold visible ASCII characters only; is there a line break at its end?"
        )
    return (("authorization", f"Bearer {token}"),)


def credentials_of(
    given: grpc.ChannelCredentials | None,
    *,
    ca_file: File | None,
    cert_file: File | None,
    key_file: File | None,
) -> grpc.ChannelCredentials | None:
    """The credentials that were given, or those of the files. Raises InvalidArgument."""
    if not (ca_file or cert_file or key_file):
        return given
    if given is not None:
        raise InvalidArgument("give either credentials or files of certificates, not both")
    if bool(cert_file) != bool(key_file):
        raise InvalidArgument("a certificate needs its key: give cert_file and key_file together")
    return grpc.ssl_channel_credentials(_pem(ca_file), _pem(key_file), _pem(cert_file))


def _pem(file: File | None) -> bytes | None:
    if file is None:
        return None
    try:
        found = Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in found:
        raise InvalidArgument(f"{file} has no PEM in it")
    return found


def is_local(target: str) -> bool:
    """Whether a target surely does not lead to the network."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(dns|ipv4|ipv6):/*", "", target).rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def seconds(timeout: timedelta | None, request: Message) -> float:
    """The deadline of one call."""
    return DEADLINES[type(request)] if timeout is None else timeout.total_seconds()


class Stream(Protocol[_Event]):
    """A stream of the blocking client."""

    def __iter__(self) -> Iterator[_Event]: ...

    def cancel(self) -> bool:
        """Ends it; its iteration raises grpc.RpcError then."""
        ...


class _Stubs(NamedTuple):
    buffer: buffer_grpc.BufferServiceStub
    delivery: delivery_grpc.DeliveryServiceStub
    admin: admin_grpc.AdminServiceStub


def _stubs(channel: grpc.Channel | grpc.aio.Channel) -> _Stubs:
    return _Stubs(
        buffer_grpc.BufferServiceStub(channel),
        delivery_grpc.DeliveryServiceStub(channel),
        admin_grpc.AdminServiceStub(channel),
    )


class _ConnectionBase:
    """Who is called, and as whom. The channel opens with the first call."""

    def __init__(self, target: str, token: Token | None):
        self.target = check_target(target)
        self._token = token
        self._fixed = () if callable(token) else authorization(token)
        self._opened: _Stubs | None = None
        self._closed = False

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """That of the next call. Raises InvalidArgument."""
        return authorization(self._token()) if callable(self._token) else self._fixed

    def _must_not_leak(self, *, is_safe: bool) -> None:
        if self._token is not None and not is_safe and not is_local(self.target):
            raise InvalidArgument(
                f"the token would go to {self.target} in clear text; use TLS with ca_file, or say"
                " insecure_token for a network that you trust"
            )

    def _open(self) -> _Stubs:
        if self._closed:
            raise errors.closed()
        if self._opened is None:
            self._opened = _stubs(self._dial())
        return self._opened

    def _dial(self) -> grpc.Channel | grpc.aio.Channel:
        raise NotImplementedError

    def error(self, error: grpc.RpcError) -> TidegateError:
        """The error for the caller."""
        if self._closed and error.code() is grpc.StatusCode.CANCELLED:
            return errors.closed()
        return errors.from_rpc_error(error, self.target)


class AsyncConnection(_ConnectionBase):
    """Of the asyncio client. A channel that was given is not closed."""

    def __init__(
        self,
        target: str,
        *,
        token: Token | None,
        credentials: grpc.ChannelCredentials | None,
        channel: grpc.aio.Channel | None,
        insecure_token: bool,
    ):
        super().__init__(target, token)
        self._must_not_leak(is_safe=bool(credentials or channel or insecure_token))
        self._credentials = credentials
        self._given = channel
        self._own: grpc.aio.Channel | None = None

    @property
    def buffer(self) -> "buffer_grpc.BufferServiceAsyncStub":
        """The producer side."""
        return cast("buffer_grpc.BufferServiceAsyncStub", self._open().buffer)

    @property
    def delivery(self) -> "delivery_grpc.DeliveryServiceAsyncStub":
        """The subscriber side."""
        return cast("delivery_grpc.DeliveryServiceAsyncStub", self._open().delivery)

    @property
    def admin(self) -> "admin_grpc.AdminServiceAsyncStub":
        """The operator side."""
        return cast("admin_grpc.AdminServiceAsyncStub", self._open().admin)

    def _dial(self) -> grpc.aio.Channel:
        if self._given is not None:
            return self._given
        if self._credentials is None:
            self._own = grpc.aio.insecure_channel(self.target, OPTIONS)
        else:
            self._own = grpc.aio.secure_channel(self.target, self._credentials, OPTIONS)
        return self._own

    async def call(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: timedelta | None = None,
    ) -> _Response:
        """The answer to one call. Raises TidegateError."""
        try:
            return await rpc(request, timeout=seconds(timeout, request), metadata=self._pairs())
        except grpc.RpcError as error:
            raise self.error(error) from None
        except grpc.aio.UsageError:
            raise errors.closed() from None
        except asyncio.CancelledError:
            if self.ended_the_call():
                raise errors.closed() from None
            raise

    def ended_the_call(self) -> bool:
        """Whether a CancelledError comes from `close`, and not from the task's cancellation."""
        return self._closed and not _is_cancelled()

    def subscribe(
        self, request: delivery_pb2.SubscribeRequest
    ) -> "grpc.aio.UnaryStreamCall[delivery_pb2.SubscribeRequest, delivery_pb2.SubscribeResponse]":
        """A new stream. Raises TidegateError if the client is closed."""
        try:
            return self.delivery.Subscribe(request, metadata=self._pairs())
        except grpc.aio.UsageError:
            raise errors.closed() from None

    def stream_messages(self) -> "AddStream":
        """A new stream. Raises TidegateError if the client is closed."""
        try:
            return self.buffer.StreamMessages(metadata=self._pairs())
        except grpc.aio.UsageError:
            raise errors.closed() from None

    def watch(
        self, request: admin_pb2.WatchEventsRequest
    ) -> "grpc.aio.UnaryStreamCall[admin_pb2.WatchEventsRequest, admin_pb2.WatchEventsResponse]":
        """A new stream. Raises TidegateError if the client is closed."""
        try:
            return self.admin.WatchEvents(request, metadata=self._pairs())
        except grpc.aio.UsageError:
            raise errors.closed() from None

    def _pairs(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*self.metadata)

    async def close(self) -> None:
        """Ends the channel and all calls that are under way."""
        self._closed = True
        if self._own is not None:
            await self._own.close()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Connection(_ConnectionBase):
    """Of the blocking client. A channel that was given is not closed."""

    def __init__(
        self,
        target: str,
        *,
        token: Token | None,
        credentials: grpc.ChannelCredentials | None,
        channel: grpc.Channel | None,
        insecure_token: bool,
    ):
        super().__init__(target, token)
        self._must_not_leak(is_safe=bool(credentials or channel or insecure_token))
        self._own = None if channel else _dial_blocking(self.target, credentials)
        self._opened = _stubs(channel or cast("grpc.Channel", self._own))

    @property
    def buffer(self) -> buffer_grpc.BufferServiceStub:
        """The producer side."""
        return self._open().buffer

    @property
    def delivery(self) -> delivery_grpc.DeliveryServiceStub:
        """The subscriber side."""
        return self._open().delivery

    @property
    def admin(self) -> admin_grpc.AdminServiceStub:
        """The operator side."""
        return self._open().admin

    def call(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: timedelta | None = None,
    ) -> _Response:
        """The answer to one call. Raises TidegateError."""
        with self._translated():
            return rpc(request, timeout=seconds(timeout, request), metadata=self.metadata)

    def begin(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: timedelta | None = None,
    ) -> "grpc.Future[_Response]":
        """One call that is not waited for; `result` has its answer."""
        with self._translated():
            return rpc.future(request, timeout=seconds(timeout, request), metadata=self.metadata)

    def result(self, future: "grpc.Future[_Response]") -> _Response:
        """The answer to a call that was begun. Raises TidegateError."""
        with self._translated():
            return future.result()

    def subscribe(
        self, request: delivery_pb2.SubscribeRequest
    ) -> Stream[delivery_pb2.SubscribeResponse]:
        """A new stream. Raises TidegateError if the client is closed."""
        with self._translated():
            return self.delivery.Subscribe(request, metadata=self.metadata)

    def watch(self, request: admin_pb2.WatchEventsRequest) -> Stream[admin_pb2.WatchEventsResponse]:
        """A new stream. Raises TidegateError if the client is closed."""
        with self._translated():
            return self.admin.WatchEvents(request, metadata=self.metadata)

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self.error(error) from None
        except (ValueError, grpc.FutureCancelledError):  # gRPC's answers on a closed channel
            raise errors.closed() from None

    def close(self) -> None:
        """Ends the channel and all calls that are under way."""
        self._closed = True
        if self._own is not None:
            self._own.close()


def _dial_blocking(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, OPTIONS)
    return grpc.secure_channel(target, credentials, OPTIONS)
