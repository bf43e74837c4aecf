"""BufferService: the producer's side."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate_server.api import convert, validate
from tidegate_server.api.intake import Answer, Intake
from tidegate_server.api.rpc import Call, until
from tidegate_server.api.status import code_of
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import InvalidField, NotFound, TidegateError

MOST_ENTRIES = 1_000
MOST_UNDER_WAY = 4
"""Requests of a stream that are read and not answered yet."""

DEFAULT_HOLD_MS, LONGEST_HOLD_MS = 5_000, 60_000

Answering = asyncio.Task[rpc.StreamMessagesResponse]


class BufferService:
    """Takes messages in, and says and changes where their conversation stands."""

    def __init__(self, engine: Engine, intake: Intake, *, max_attempts: int):
        self._engine = engine
        self._intake = intake
        self._max_attempts = max_attempts

    async def add_message(
        self, request: rpc.AddMessageRequest, call: Call
    ) -> rpc.AddMessageResponse:
        """Add one message; what cannot be buffered is refused or falls back."""
        (answer,) = await self._intake.add([request], call)
        if isinstance(answer, TidegateError):
            raise answer
        return answer

    async def add_messages(
        self, request: rpc.AddMessagesRequest, call: Call
    ) -> rpc.AddMessagesResponse:
        """Add many, each with a result of its own."""
        _check_entries(request.messages)
        answers = await self._intake.add(request.messages, call)
        return rpc.AddMessagesResponse(results=map(_result, answers))

    async def stream_messages(
        self, requests: AsyncIterator[rpc.StreamMessagesRequest], call: Call
    ) -> None:
        """Answer each request with a response, in order; read ahead a little, and no more."""
        room = asyncio.Semaphore(MOST_UNDER_WAY - 1)
        answers: asyncio.Queue[Answering | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read_ahead(requests, call, room, answers))
        under_way: Answering | None = None
        try:
            while under_way := await answers.get():
                await call.write(await under_way)
                room.release()
            await reader
        finally:
            waiting = [answers.get_nowait() for _ in range(answers.qsize())]
            await _end(reader, under_way, *waiting)

    async def get_status(self, request: rpc.GetStatusRequest, call: Call) -> rpc.GetStatusResponse:
        """Where a conversation stands."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        status = await call.in_time(self._engine.store.status(conversation))
        response = rpc.GetStatusResponse()
        if status.buffer:
            response.buffer.CopyFrom(convert.buffer(status.buffer))
        if status.current_batch:
            current = convert.batch_info(status.current_batch, self._max_attempts)
            response.current_batch.CopyFrom(current)
        if status.last_batch:
            last = convert.batch_info(status.last_batch, self._max_attempts)
            response.last_batch.CopyFrom(last)
        if not response.ByteSize():
            raise NotFound("conversation", "of that name")
        return response

    async def flush(self, request: rpc.FlushRequest, call: Call) -> rpc.FlushResponse:
        """Close a conversation's window now."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        flushed = await call.in_time(self._engine.flush(conversation))
        buffer = convert.optional_buffer(flushed.buffer)
        return rpc.FlushResponse(flushed=flushed.flushed, buffer=buffer)

    async def hold_window(
        self, request: rpc.HoldWindowRequest, call: Call
    ) -> rpc.HoldWindowResponse:
        """Keep a conversation's window open for a while."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        hold_ms = DEFAULT_HOLD_MS
        if request.HasField("hold_for"):
            most = LONGEST_HOLD_MS
            hold_ms = validate.duration_ms(request.hold_for, "hold_for", least_ms=0, most_ms=most)
        held = await call.in_time(self._engine.hold(conversation, hold_ms))
        return rpc.HoldWindowResponse(held=held.held, buffer=convert.optional_buffer(held.buffer))

    async def amend_message(
        self, request: rpc.AmendMessageRequest, call: Call
    ) -> rpc.AmendMessageResponse:
        """Replace a message that is still in the buffer."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        if not request.HasField("message"):
            raise InvalidField("message", "is required")
        message_id = validate.required_message_id(request.message.id, "message.id")
        body, size = self._intake.body(request.message)
        changed = await call.in_time(
            self._engine.amend(conversation, message_id, body=body, payload_bytes=size)
        )
        return rpc.AmendMessageResponse(buffer=convert.optional_buffer(changed.buffer))

    async def remove_message(
        self, request: rpc.RemoveMessageRequest, call: Call
    ) -> rpc.RemoveMessageResponse:
        """Take a message out of the buffer."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        message_id = validate.required_message_id(request.message_id, "message_id")
        changed = await call.in_time(self._engine.remove(conversation, message_id))
        return rpc.RemoveMessageResponse(buffer=convert.optional_buffer(changed.buffer))

    async def discard(self, request: rpc.DiscardRequest, call: Call) -> rpc.DiscardResponse:
        """Drop a conversation's buffer."""
        conversation = validate.conversation_ref(request, request.conversation, call.access)
        dropped = await call.in_time(self._engine.discard(conversation))
        return rpc.DiscardResponse(discarded_count=dropped)

    async def _read_ahead(
        self,
        requests: AsyncIterator[rpc.StreamMessagesRequest],
        call: Call,
        room: asyncio.Semaphore,
        answers: asyncio.Queue[Answering | None],
    ) -> None:
        """Begin to answer each request, while there is room; in the end put None.

        Raises:
            InvalidField: A request has too many entries, or none. Those before it are answered.
        """
        try:
            async with aclosing(until(self._engine.drain_begun, requests)) as incoming:
                async for request in incoming:
                    _check_entries(request.messages)
                    answers.put_nowait(asyncio.create_task(self._answer(request, call)))
                    await room.acquire()
        finally:
            answers.put_nowait(None)

    async def _answer(
        self, request: rpc.StreamMessagesRequest, call: Call
    ) -> rpc.StreamMessagesResponse:
        answers = await self._intake.add(request.messages, call)
        return rpc.StreamMessagesResponse(
            correlation_id=request.correlation_id, results=map(_result, answers)
        )


async def _end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what is left of a stream, and wait for the end of it."""
    left = [task for task in tasks if task]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _check_entries(messages: Sequence[rpc.AddMessageRequest]) -> None:
    if not 1 <= len(messages) <= MOST_ENTRIES:
        raise InvalidField("messages", f"must be 1 to {MOST_ENTRIES}")


def _result(answer: Answer) -> rpc.AddResult:
    if not isinstance(answer, TidegateError):
        return rpc.AddResult(response=answer)
    code: int = code_of(answer).value[0]
    error = rpc.AddError(code=code, reason=convert.reason(answer), message=str(answer))
    return rpc.AddResult(error=error)
