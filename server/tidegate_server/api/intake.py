"""How messages come in: checked one by one, put into the store in one step, answered in order."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert, validate
from tidegate_server.api.rpc import Call
from tidegate_server.core.model import AddOutcome, Conversation, NewMessage, WindowPolicy
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import (
    Draining,
    Exhausted,
    InvalidField,
    StoreUnavailable,
    TidegateError,
    Unavailable,
)
from tidegate_server.metrics import Metrics
from tidegate_server.store.base import Added

Answer = rpc.AddMessageResponse | TidegateError


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """The rules of an instance, asked for every message: as fast as a look into a dict.

    The policy of its windows, "error" or "immediate" for what cannot be buffered, and the bound of
    a call's own delay.
    """

    policy: Callable[[str], WindowPolicy]
    fallback: Callable[[str], str]
    max_delay_ms: Callable[[str], int | None]
    max_message_bytes: int


class Intake:
    """Takes messages in. What cannot be buffered is refused, or falls back, each by its rules."""

    def __init__(self, engine: Engine, metrics: Metrics, rules: IntakeRules):
        self._engine = engine
        self._metrics = metrics
        self._rules = rules

    async def add(self, requests: Sequence[rpc.AddMessageRequest], call: Call) -> list[Answer]:
        """Each one's response, or the error it failed with.

        A bad one does not spoil its neighbours; those of one conversation keep their order.
        """
        started = perf_counter()
        read = [self._try_to_read(request, call) for request in requests]
        messages = [message for message in read if isinstance(message, NewMessage)]
        answers = iter(await self._put(messages, call) if messages else ())
        results = [next(answers) if isinstance(entry, NewMessage) else entry for entry in read]
        for result in results:
            if isinstance(result, TidegateError):
                self._metrics.refused[result.reason] += 1
        if messages:
            self._metrics.add_seconds.observe(perf_counter() - started)
        return results

    def body(self, message: pb.Message, call: Call | None = None) -> tuple[bytes, int]:
        """What the store keeps of a message, and the size of its payload."""
        size = validate.payload_bytes(message, most=self._rules.max_message_bytes)
        return convert.body(message, call.metadata if call else {}), size

    def _try_to_read(
        self, request: rpc.AddMessageRequest, call: Call
    ) -> NewMessage | TidegateError:
        try:
            return self._read(request, call)
        except TidegateError as error:
            return error

    def _read(self, request: rpc.AddMessageRequest, call: Call) -> NewMessage:
        """The message of a request, checked, in the form that the store keeps."""
        conversation = validate.conversation(request.instance, request.conversation)
        call.access.must_cover(conversation.instance)
        if not request.HasField("message"):
            raise InvalidField("message", "is required")
        message = request.message
        if not validate.message_id(message.id):
            message.id = uuid.uuid4().hex
        body, size = self.body(message, call)
        policy = self._rules.policy(conversation.instance)
        if request.HasField("policy"):
            bound = self._rules.max_delay_ms(conversation.instance)
            policy = validate.policy(request.policy, policy, bound)
        return NewMessage(
            conversation=conversation,
            id=message.id,
            body=body,
            payload_bytes=size,
            policy=policy,
            flush=request.flush,
        )

    async def _put(self, messages: Sequence[NewMessage], call: Call) -> list[Answer]:
        try:
            if self._engine.draining:
                raise Draining
            added = await call.in_time(self._engine.add(messages))
        except TidegateError as error:
            return [self._not_added(message, error) for message in messages]
        pairs = list(zip(messages, added, strict=True))
        last = {m.conversation: m for m, result in pairs if isinstance(result, Added)}
        return [
            self._added(message, result, shows_buffer=last[message.conversation] is message)
            if isinstance(result, Added)
            else self._not_added(message, result)
            for message, result in pairs
        ]

    def _added(self, message: NewMessage, added: Added, *, shows_buffer: bool) -> Answer:
        duplicate = added.outcome is AddOutcome.DUPLICATE
        if duplicate:
            self._metrics.duplicates += 1
        else:
            self._metrics.added += 1
        buffer = added.buffer if shows_buffer else None
        return rpc.AddMessageResponse(
            success=True,
            buffer_created=added.buffer_created,
            outcome=rpc.ADD_OUTCOME_DUPLICATE if duplicate else rpc.ADD_OUTCOME_BUFFERED,
            message_id=message.id,
            sequence=added.sequence,
            buffer=convert.buffer(buffer) if buffer else None,
        )

    def _not_added(self, message: NewMessage, error: TidegateError) -> Answer:
        if not self._falls_back(message.conversation, error):
            return error
        self._metrics.fallbacks += 1
        return rpc.AddMessageResponse(
            fallback_to_immediate=True,
            outcome=rpc.ADD_OUTCOME_FALLBACK,
            fallback_reason=convert.reason(error),
            message_id=message.id,
        )

    def _falls_back(self, conversation: Conversation, error: TidegateError) -> bool:
        """Whether the caller is to handle it now: only what is surely not stored."""
        may_be_in = isinstance(error, StoreUnavailable) and error.maybe_done
        could_not = isinstance(error, Exhausted | Unavailable)
        return (
            could_not
            and not may_be_in
            and self._rules.fallback(conversation.instance) == "immediate"
        )
