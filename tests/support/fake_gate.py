"""A real gRPC server that speaks Tidegate's contract and does as a test tells it."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tidegate.v1 import (
    admin_service_pb2,
    buffer_service_pb2,
    delivery_service_pb2,
    types_pb2,
)

PATIENCE_S = 10


@dataclass(frozen=True)
class Failure:
    """A call that fails."""

    code: grpc.StatusCode
    text: str = "it failed"
    details: bytes = b""


@dataclass(frozen=True)
class Hang:
    """A call that is never answered."""


def failure(
    code: grpc.StatusCode,
    reason: str,
    text: str = "it failed",
    *,
    domain: str = "tidegate",
    retry_after: timedelta | None = None,
    fields: dict[str, str] | None = None,
) -> Failure:
    """A failure with the details that the contract promises."""
    parts: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain)]
    if retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(retry_after)
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if fields:
        violation = error_details_pb2.BadRequest.FieldViolation
        broken = [violation(field=name, description=rule) for name, rule in fields.items()]
        parts.append(error_details_pb2.BadRequest(field_violations=broken))
    status = status_pb2.Status(code=cast("int", code.value[0]), message=text)
    for part in parts:
        packed = PackedAny()
        packed.Pack(part)
        status.details.append(packed)
    return Failure(code, text, status.SerializeToString())


def opened(
    *,
    lease: timedelta = timedelta(seconds=30),
    heartbeat: timedelta = timedelta(seconds=30),
) -> delivery_service_pb2.SubscribeResponse:
    """The first event of a stream."""
    event = delivery_service_pb2.SubscriptionOpened(subscription_id="s1", max_in_flight=8)
    event.lease_duration.FromTimedelta(lease)
    event.heartbeat_interval.FromTimedelta(heartbeat)
    return delivery_service_pb2.SubscribeResponse(opened=event)


def batch(batch_id: str = "b1", *texts: str) -> types_pb2.Batch:
    """A batch of these texts."""
    wire = types_pb2.Batch(lease_token=f"token-{batch_id}")
    wire.info.batch_id = batch_id
    wire.info.conversation.instance = "bot"
    wire.info.conversation.conversation = "+49170"
    wire.info.attempt = 1
    for number, text in enumerate(texts or ("hello",), start=1):
        message = wire.messages.add(sequence=number)
        message.message.id = f"m{number}"
        message.message.text = text
    return wire


def arrival(batch_id: str = "b1", *texts: str) -> delivery_service_pb2.SubscribeResponse:
    """The event that brings a batch."""
    return delivery_service_pb2.SubscribeResponse(batch=batch(batch_id, *texts))


HEARTBEAT = delivery_service_pb2.SubscribeResponse(heartbeat=delivery_service_pb2.Heartbeat())
CLOSING = delivery_service_pb2.SubscribeResponse(
    closing=delivery_service_pb2.SubscriptionClosing(reason="drain")
)


@dataclass(eq=False)
class FakeStream:
    """One Subscribe call, seen from the server."""

    request: delivery_service_pb2.SubscribeRequest
    over: asyncio.Event = field(default_factory=asyncio.Event)
    events: "asyncio.Queue[Message | Failure | None]" = field(default_factory=asyncio.Queue)

    def send(self, *events: Message | Failure | None) -> Self:
        """Sends events; a Failure or None ends the stream."""
        for event in events:
            self.events.put_nowait(event)
        return self

    async def wait_over(self) -> None:
        """Until the stream has ended on this side."""
        async with asyncio.timeout(PATIENCE_S):
            await self.over.wait()


def _methods() -> list[MethodDescriptor]:
    files = (buffer_service_pb2, delivery_service_pb2, admin_service_pb2)
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


class FakeGate:
    """Answers each call with what was scripted for it, else with an empty response."""

    def __init__(self, address: str):
        self.address = address
        self.metadata: dict[str, str | bytes] = {}
        self._answers: dict[str, deque[Message | Failure | Hang]] = defaultdict(deque)
        self._calls: dict[str, list[Any]] = defaultdict(list)
        self._changed = asyncio.Condition()
        self._streams: asyncio.Queue[FakeStream] = asyncio.Queue()
        self._all_streams: list[FakeStream] = []
        self._server = grpc.aio.server()
        for method in _methods():
            self._server.add_generic_rpc_handlers((self._handler(method),))

    async def __aenter__(self) -> Self:
        self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in self._all_streams:
            stream.send(None)
        await self._server.stop(None)

    def script(self, method: str, *answers: Message | Failure | Hang) -> None:
        """What the next calls of that method are answered."""
        self._answers[method].extend(answers)

    def calls(self, method: str) -> list[Any]:
        """The requests so far."""
        return list(self._calls[method])

    async def called(self, method: str, times: int = 1) -> list[Any]:
        """The requests, once there were that many."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self._calls[method]) >= times)
            return self.calls(method)

    async def next_stream(self) -> FakeStream:
        """The next subscription that somebody opens."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._streams.get()

    def _handler(self, method: MethodDescriptor) -> grpc.GenericRpcHandler:
        request = message_factory.GetMessageClass(method.input_type)
        codecs: dict[str, Callable[..., Any]] = {
            "request_deserializer": request.FromString,
            "response_serializer": _serialize,
        }
        if method.name == "Subscribe":
            handler = grpc.unary_stream_rpc_method_handler(self._subscribe, **codecs)
        else:
            handler = grpc.unary_unary_rpc_method_handler(self._unary(method), **codecs)
        service = method.containing_service.full_name
        return grpc.method_handlers_generic_handler(service, {method.name: handler})

    def _unary(self, method: MethodDescriptor) -> Callable[..., Any]:
        response = message_factory.GetMessageClass(method.output_type)

        async def handle(request: Message, context: Any) -> Message:
            await self._note(method.name, request, context)
            scripted = self._answers[method.name]
            answer = scripted.popleft() if scripted else response()
            if isinstance(answer, Hang):
                await asyncio.Event().wait()
            if isinstance(answer, Failure):
                await _abort(context, answer)
            return cast("Message", answer)

        return handle

    async def _subscribe(
        self, request: delivery_service_pb2.SubscribeRequest, context: Any
    ) -> AsyncIterator[Message]:
        await self._note("Subscribe", request, context)
        stream = FakeStream(request)
        self._all_streams.append(stream)
        self._streams.put_nowait(stream)
        try:
            while (event := await stream.events.get()) is not None:
                if isinstance(event, Failure):
                    await _abort(context, event)
                else:
                    yield event
        finally:
            stream.over.set()

    async def _note(self, method: str, request: Message, context: Any) -> None:
        async with self._changed:
            self.metadata = dict(context.invocation_metadata())
            self._calls[method].append(request)
            self._changed.notify_all()


def _serialize(response: Message) -> bytes:
    return response.SerializeToString()


async def _abort(context: Any, answer: Failure) -> None:
    trailer = (("grpc-status-details-bin", answer.details),) if answer.details else ()
    await context.abort(answer.code, answer.text, trailer)


@asynccontextmanager
async def fake_gate(folder: Path) -> AsyncGenerator[FakeGate]:
    """A fake on a unix socket in that folder."""
    async with FakeGate(f"unix:{folder}/gate.sock") as gate:
        yield gate
