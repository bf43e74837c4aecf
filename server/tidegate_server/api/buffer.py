"""BufferService: the producer's side."""

import uuid
from collections.abc import Callable
from time import perf_counter

from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert, validate
from tidegate_server.api.rpc import Call
from tidegate_server.core.model import AddOutcome, NewMessage, WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import (
    Exhausted,
    InvalidField,
    NotFound,
    StoreUnavailable,
    TidegateError,
    Unavailable,
)
from tidegate_server.metrics import Metrics


class BufferService:
    """Takes messages in, and says and changes where their conversation stands.

    `policy`, `fallback` and `max_delay_ms` give the rules of an instance: the policy of its
    windows, "error" or "immediate" for what cannot be buffered, and the bound of a call's own
    delay. They are asked for every message and must be as fast as a look into a dict.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        policy: Callable[[str], WindowPolicy],
        fallback: Callable[[str], str],
        max_delay_ms: Callable[[str], int | None],
        max_attempts: int,
        max_message_bytes: int,
    ):
        self._engine = engine
        self._metrics = metrics
        self._policy = policy
        self._fallback = fallback
        self._max_delay_ms = max_delay_ms
        self._max_attempts = max_attempts
        self._max_message_bytes = max_message_bytes

    async def add_message(
        self, request: rpc.AddMessageRequest, call: Call
    ) -> rpc.AddMessageResponse:
        """Add one message; what cannot be buffered is refused or falls back."""
        started = perf_counter()
        try:
            message = self._read(request, call)
            response = await self._add(message, call)
        except TidegateError as error:
            self._metrics.refused[error.reason] += 1
            raise
        self._metrics.add_seconds.observe(perf_counter() - started)
        return response

    async def get_status(self, request: rpc.GetStatusRequest, call: Call) -> rpc.GetStatusResponse:
        """Where a conversation stands."""
        conversation = validate.conversation_ref(request, request.conversation)
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
        conversation = validate.conversation_ref(request, request.conversation)
        flushed = await call.in_time(self._engine.flush(conversation))
        response = rpc.FlushResponse(flushed=flushed.flushed)
        if flushed.buffer:
            response.buffer.CopyFrom(convert.buffer(flushed.buffer))
        return response

    def _read(self, request: rpc.AddMessageRequest, call: Call) -> NewMessage:
        """The message of a request, checked, in the form that the store keeps."""
        conversation = validate.conversation(request.instance, request.conversation)
        if not request.HasField("message"):
            raise InvalidField("message", "is required")
        message = request.message
        size = validate.payload_bytes(message, most=self._max_message_bytes)
        if not validate.message_id(message.id):
            message.id = uuid.uuid4().hex
        policy = self._policy(conversation.instance)
        if request.HasField("policy"):
            bound = self._max_delay_ms(conversation.instance)
            policy = validate.policy(request.policy, policy, bound)
        return NewMessage(
            conversation=conversation,
            id=message.id,
            body=convert.body(message, call.metadata),
            payload_bytes=size,
            policy=policy,
            flush=request.flush,
        )

    async def _add(self, message: NewMessage, call: Call) -> rpc.AddMessageResponse:
        try:
            (added,) = await call.in_time(self._engine.add((message,)))
        except (Exhausted, Unavailable) as error:
            if self._fallback(message.conversation.instance) != "immediate" or _may_be_in(error):
                raise
            return self._fall_back(message, error)
        duplicate = added.outcome is AddOutcome.DUPLICATE
        if duplicate:
            self._metrics.duplicates += 1
        else:
            self._metrics.added += 1
        return rpc.AddMessageResponse(
            success=True,
            buffer_created=added.buffer_created,
            outcome=rpc.ADD_OUTCOME_DUPLICATE if duplicate else rpc.ADD_OUTCOME_BUFFERED,
            message_id=message.id,
            sequence=added.sequence,
            buffer=convert.buffer(added.buffer) if added.buffer else None,
        )

    def _fall_back(self, message: NewMessage, error: TidegateError) -> rpc.AddMessageResponse:
        self._metrics.fallbacks += 1
        return rpc.AddMessageResponse(
            fallback_to_immediate=True,
            outcome=rpc.ADD_OUTCOME_FALLBACK,
            fallback_reason=pb.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
            message_id=message.id,
        )


def _may_be_in(error: TidegateError) -> bool:
    """Whether the message may be stored, so that "handle it now" could have it handled twice."""
    return isinstance(error, StoreUnavailable) and error.maybe_done
