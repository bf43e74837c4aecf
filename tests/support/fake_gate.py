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


@dataclass(frozen=True)
class Wait:
    """A call that is answered as if nothing were scripted, once the test lets it."""

    until: asyncio.Event


@dataclass(frozen=True)
class Normal:
    """A call that is answered as if nothing were scripted."""


@dataclass(frozen=True)
class Lost:
    """What it carries is taken, but its answer is lost: the stream breaks, or just ends."""

    end: "Failure | None" = None


Answer = Message | Failure | Hang | Wait | Normal | Lost


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
    """One call of Subscribe or WatchEvents, seen from the server."""

    request: Any
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
    """Answers each call with what was scripted for it, else as if it had gone well."""

    def __init__(self, address: str):
        self.address = address
        self.metadata: dict[str, str | bytes] = {}
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self._stored: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._calls: dict[str, list[Any]] = defaultdict(list)
        self._changed = asyncio.Condition()
        self._ending = asyncio.Event()
        self.add_streams = 0
        self.open_add_streams = 0
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

    def script(self, method: str, *answers: Answer) -> None:
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

    def stored(self, conversation: str) -> list[str]:
        """The ids of that conversation's messages, in the order in which they were taken."""
        return self._stored["bot", conversation]

    async def end_add_streams(self) -> None:
        """Ends the streams of adds that are open."""
        self._ending.set()
        await self.until_no_add_stream()
        self._ending.clear()

    async def until_no_add_stream(self) -> None:
        """Until no stream of adds is open."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.open_add_streams == 0)

    async def next_stream(self) -> FakeStream:
        """The next stream of batches or of events that somebody opens."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._streams.get()

    def _handler(self, method: MethodDescriptor) -> grpc.GenericRpcHandler:
        request = message_factory.GetMessageClass(method.input_type)
        codecs: dict[str, Callable[..., Any]] = {
            "request_deserializer": request.FromString,
            "response_serializer": _serialize,
        }
        if method.name in ("Subscribe", "WatchEvents"):
            handler = grpc.unary_stream_rpc_method_handler(self._events(method.name), **codecs)
        elif method.name == "StreamMessages":
            handler = grpc.stream_stream_rpc_method_handler(self._stream_messages, **codecs)
        else:
            handler = grpc.unary_unary_rpc_method_handler(self._unary(method), **codecs)
        service = method.containing_service.full_name
        return grpc.method_handlers_generic_handler(service, {method.name: handler})

    def _unary(self, method: MethodDescriptor) -> Callable[..., Any]:
        response = message_factory.GetMessageClass(method.output_type)

        async def handle(request: Message, context: Any) -> Message:
            await self._note(method.name, request, context)
            scripted = self._answers[method.name]
            answer = scripted.popleft() if scripted else Normal()
            if isinstance(answer, Hang):
                await asyncio.Event().wait()
            if isinstance(answer, Wait):
                await answer.until.wait()
            if isinstance(answer, Failure):
                await _abort(context, answer)
            return answer if isinstance(answer, Message) else self._normal(request, response())

        return handle

    def _normal(self, request: Any, response: Any) -> Message:
        """What a call is answered when nothing is scripted: empty, but for what adds."""
        if isinstance(request, buffer_service_pb2.AddMessageRequest):
            return self._add(request)
        if isinstance(request, buffer_service_pb2.AddMessagesRequest):
            response.results.extend(self._add_all(request.messages))
        return response

    def _add_all(self, requests: Any) -> list[buffer_service_pb2.AddResult]:
        return [buffer_service_pb2.AddResult(response=self._add(request)) for request in requests]

    def _add(
        self, request: buffer_service_pb2.AddMessageRequest
    ) -> buffer_service_pb2.AddMessageResponse:
        stored = self._stored[request.instance, request.conversation]
        new = request.message.id not in stored
        if new:
            stored.append(request.message.id)
        return buffer_service_pb2.AddMessageResponse(
            success=True,
            outcome=buffer_service_pb2.AddOutcome.ValueType(1 if new else 2),
            message_id=request.message.id,
            sequence=stored.index(request.message.id) + 1,
        )

    async def _stream_messages(
        self, requests: AsyncIterator[buffer_service_pb2.StreamMessagesRequest], context: Any
    ) -> AsyncIterator[Message]:
        self.add_streams += 1
        self.open_add_streams += 1
        try:
            while (request := await self._next_add(requests)) is not None:
                await self._note("StreamMessages", request, context)
                response = await self._answer_stream(request, context)
                if response is None:
                    return
                yield response
        finally:
            self.open_add_streams -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _next_add(
        self, requests: AsyncIterator[buffer_service_pb2.StreamMessagesRequest]
    ) -> buffer_service_pb2.StreamMessagesRequest | None:
        """The next request; None when the client, or the test, ends the stream."""
        reading = asyncio.ensure_future(anext(requests, None))
        ending = asyncio.create_task(self._ending.wait())
        done, _ = await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if reading in done:
            return reading.result()
        reading.cancel()
        return None

    async def _answer_stream(
        self, request: buffer_service_pb2.StreamMessagesRequest, context: Any
    ) -> buffer_service_pb2.StreamMessagesResponse | None:
        scripted = self._answers["StreamMessages"]
        answer = scripted.popleft() if scripted else Normal()
        if isinstance(answer, Hang):
            await asyncio.Event().wait()
        if isinstance(answer, Wait):
            await answer.until.wait()
        if isinstance(answer, Failure):
            await _abort(context, answer)
        results = self._add_all(request.messages) if not isinstance(answer, Message) else []
        if isinstance(answer, Lost):
            if answer.end is not None:
                await _abort(context, answer.end)
            return None
        response = buffer_service_pb2.StreamMessagesResponse(results=results)
        if isinstance(answer, Message):
            response.MergeFrom(cast("Any", answer))
        response.correlation_id = response.correlation_id or request.correlation_id
        return response

    def _events(self, method: str) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Message]:
            await self._note(method, request, context)
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

        return handle

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
