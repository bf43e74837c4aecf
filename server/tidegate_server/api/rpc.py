"""How a service of the contract meets gRPC.

A service is a plain class with one method per RPC, named in snake case, that takes the request (of
a stream of requests the iterator) and the `Call`. `register` finds them by the contract's own
description. What a method raises becomes a status here, in one place.
"""

import asyncio
import re
import traceback
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Never, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tidegate_server.api.status import DETAILS_KEY, code_of, rich_status
from tidegate_server.core.access import EVERYTHING, Role
from tidegate_server.errors import (
    Draining,
    InvalidField,
    NotFound,
    StoreUnavailable,
    TidegateError,
)
from tidegate_server.guard import Guard
from tidegate_server.logs import get_logger
from tidegate_server.store.base import Store

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, "Call"], Awaitable[Any]]
Answer = TypeVar("Answer")
Request = TypeVar("Request")

ROLES = {
    "tidegate.v1.BufferService": Role.PRODUCER,
    "tidegate.v1.DeliveryService": Role.SUBSCRIBER,
    "tidegate.v1.AdminService": Role.ADMIN,
}
FOR_ANY_TOKEN = frozenset({"tidegate.v1.AdminService.GetServerInfo"})
"""What every client may ask, to adapt to the server."""

AUTHORIZATION = "authorization"
REQUEST_ID = "x-request-id"
LEAST_MARGIN_S = 0.02

_fits_request_id = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_log = get_logger("api")


class Call:
    """One RPC under way: its metadata, its deadline, and the way back to the client.

    `access` says what the caller may do.
    """

    __slots__ = ("_context", "access", "metadata", "method")

    def __init__(self, context: Context, method: str):
        self._context = context
        self.access = EVERYTHING
        self.method = method
        pairs = cast("Iterable[tuple[str, str | bytes]]", context.invocation_metadata() or ())
        self.metadata = dict(pairs)

    @property
    def authorization(self) -> str:
        """The caller's credentials; empty if it gave none."""
        return str(self.metadata.get(AUTHORIZATION, ""))

    @property
    def request_id(self) -> str:
        """The client's `x-request-id`; empty if there is none that may be echoed."""
        given = self.metadata.get(REQUEST_ID)
        return given if isinstance(given, str) and _fits_request_id(given) else ""

    def time_left(self) -> float | None:
        """Seconds until an answer must be under way, a margin kept. None: there is no deadline."""
        left = cast("float | None", self._context.time_remaining())
        return None if left is None else left - max(LEAST_MARGIN_S, left / 10)

    async def in_time(self, work: Awaitable[Answer]) -> Answer:
        """What `work` gives, waited for no longer than the call's deadline allows.

        Raises:
            StoreUnavailable: The time is up; what was asked of the store may have happened.
        """
        left = self.time_left()
        if left is None:
            return await work
        limit = asyncio.timeout(left)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreUnavailable(
                "the store did not answer within the call's deadline; the request may have had "
                "its effect, and repeating it is safe",
                maybe_done=True,
            ) from None

    async def echo_request_id(self) -> None:
        """Send the client's `x-request-id` back, if it gave one."""
        if request_id := self.request_id:
            await self._context.send_initial_metadata(((REQUEST_ID, request_id),))

    async def write(self, response: Message) -> None:
        """Send one response of a stream, when the client has room for it."""
        await self._context.write(response)

    async def fail(self, error: Exception) -> Never:
        """End the call with the status of `error`, and the client's `x-request-id` beside it.

        What fails because the client has gone interests nobody: it ends as a cancelled call does.
        """
        try:
            if isinstance(error, grpc.aio.InternalError):
                raise error
            await self._abort(error)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None

    async def _abort(self, error: Exception) -> Never:
        request_id = self.request_id
        trailer: list[tuple[str, str | bytes]] = [(REQUEST_ID, request_id)] if request_id else []
        if isinstance(error, TidegateError):
            status = rich_status(error).SerializeToString()
            trailer.append((DETAILS_KEY, status))
            await self._context.abort(code_of(error), str(error), tuple(trailer))
        await self._context.abort(grpc.StatusCode.INTERNAL, self._report(error), tuple(trailer))

    def _report(self, error: Exception) -> str:
        """Log an error that nobody foresaw. Its text stays out: it might quote a payload."""
        request_id = self.request_id or uuid.uuid4().hex
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error(
            "a call failed for a reason that nobody foresaw",
            method=self.method,
            request_id=request_id,
            error=type(error).__name__,
            where=where,
        )
        return f"internal error; the server's log has it under request id {request_id}"


async def must_cover(store: Store, batch_id: str, call: Call) -> None:
    """Look whether a batch is of an instance that the caller may touch.

    Raises:
        NotFound: It is not, or there is none; the caller cannot tell which.
    """
    if call.access.instances is None:
        return
    conversation = await store.find(batch_id)
    if not call.access.covers(conversation.instance):
        raise NotFound("batch", batch_id)


class Door:
    """The way into one RPC."""

    def __init__(self, guard: Guard, method: MethodDescriptor):
        self._guard = guard
        for_all = guard.is_open or method.full_name in FOR_ANY_TOKEN
        self._role = None if for_all else ROLES[method.containing_service.full_name]

    def admit(self, call: Call) -> None:
        """Find out what the caller may do.

        Raises:
            BadCredentials: It has no token, or one that is not known.
            NotAllowed: Its token is not for this RPC.
        """
        call.access = self._guard.admit(call.authorization)
        if self._role:
            call.access.must_have(self._role)

    @asynccontextmanager
    async def held_open(self, call: Call) -> AsyncGenerator[None]:
        """Let a stream go on as long as its token stays what it is.

        Raises:
            Draining: It does not; with another token the next stream may.
        """
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)
        with self._guard.holding(
            call.authorization, call.access, lambda: limit.reschedule(loop.time())
        ):
            try:
                async with limit:
                    yield
            except TimeoutError:
                if not limit.expired():
                    raise
                raise Draining("the token of this stream has changed; open another") from None


def register(
    server: grpc.aio.Server, service: ServiceDescriptor, implementation: object, guard: Guard
) -> None:
    """Have `implementation` answer the RPCs of `service`, for those whom `guard` lets in."""
    handlers = {
        method.name: _handler(method, implementation, Door(guard, method))
        for method in service.methods
    }
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((generic,))


async def until(
    stopped: asyncio.Event, requests: AsyncIterator[Request]
) -> AsyncGenerator[Request]:
    """The requests of a stream, until there are no more or `stopped` is set."""
    stop = asyncio.ensure_future(stopped.wait())
    pending = {stop}
    try:
        while not stopped.is_set():
            request = asyncio.ensure_future(anext(requests, None))
            pending = {stop, request}
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if not request.done() or (found := request.result()) is None:
                return
            yield found
    finally:
        for future in pending:
            future.cancel()


def _handler(
    method: MethodDescriptor, implementation: object, door: Door
) -> "grpc.RpcMethodHandler[Any, Any]":
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
    handler: Handler = getattr(implementation, name)
    if method.client_streaming:
        duplex = _duplex(method, handler, door)
        return grpc.stream_stream_rpc_method_handler(duplex, None, _serialize)
    if method.server_streaming:
        stream = _stream(method, handler, door)
        return grpc.unary_stream_rpc_method_handler(stream, None, _serialize)
    return grpc.unary_unary_rpc_method_handler(_unary(method, handler, door), None, _serialize)


def _unary(
    method: MethodDescriptor, handler: Handler, door: Door
) -> Callable[..., Awaitable[Message]]:
    # Metadata before a failure would switch the transparent retries of gRPC's clients off.
    parse, name = _parser(method), method.full_name

    async def answer(raw: bytes, context: Context) -> Message:
        call = Call(context, name)
        try:
            door.admit(call)
            response = await handler(parse(raw), call)
            if REQUEST_ID in call.metadata:
                await call.echo_request_id()
            return response
        except Exception as error:
            await call.fail(error)

    return answer


def _stream(
    method: MethodDescriptor, handler: Handler, door: Door
) -> Callable[..., Awaitable[None]]:
    # A coroutine that writes, and no generator: its `finally` runs when the call is cancelled,
    # not when the garbage collector finds the generator.
    parse, name = _parser(method), method.full_name

    async def answer(raw: bytes, context: Context) -> None:
        call = Call(context, name)
        try:
            door.admit(call)
            await call.echo_request_id()
            async with door.held_open(call):
                await handler(parse(raw), call)
        except Exception as error:
            await call.fail(error)

    return answer


def _duplex(
    method: MethodDescriptor, handler: Handler, door: Door
) -> Callable[..., Awaitable[None]]:
    parse, name = _parser(method), method.full_name

    async def answer(raw: AsyncIterator[bytes], context: Context) -> None:
        call = Call(context, name)
        try:
            door.admit(call)
            await call.echo_request_id()
            async with door.held_open(call):
                await handler((parse(request) async for request in raw), call)
        except Exception as error:
            await call.fail(error)

    return answer


def _parser(method: MethodDescriptor) -> Callable[[bytes], Message]:
    parse, name = GetMessageClass(method.input_type).FromString, method.input_type.name

    def checked(raw: bytes) -> Message:
        try:
            return parse(raw)
        except DecodeError:
            raise InvalidField("request", f"is not a {name} in protobuf's encoding") from None

    return checked


def _serialize(response: Message) -> bytes:
    return response.SerializeToString()
