"""Adds that are under way at the same time share requests of StreamMessages.

One add alone is a unary call. While any is under way, further ones gather: all that came while
earlier requests were under way forms the next one. There is no lingering.

The adds of one conversation keep the order of the calls: they share a request, or the later ones
wait until the earlier ones are over. Only if the server takes some of one request and not others,
which then go again, a later one may come first.

A server that does not know StreamMessages, refuses it or falls silent on it is called unary for a
minute. The adds that had no answer then, or when a stream breaks, go again with the same ids.
"""

import asyncio
import copy
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from tidegate import _channel, _decode, errors
from tidegate._channel import AsyncConnection
from tidegate._delivery import Backoff, log
from tidegate._many import MAX_BYTES, MAX_ENTRIES
from tidegate.errors import ServerError, TidegateError, Unavailable
from tidegate.v1 import buffer_service_pb2 as buffer_pb2

if TYPE_CHECKING:
    from tidegate._channel import AddStream

MAX_REQUESTS_IN_FLIGHT = 4
# As often as the service config tries a unary call.
MAX_TRIES = 4
# An idle stream ends after this; one that is silent for longer is dead.
IDLE_S = 5.0
SILENCE_S = 10.0
# How long a server that refused the stream is called unary.
UNARY_S = 60.0

# Errors after which a new stream may do better.
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(eq=False, slots=True, repr=False)
class _Entry:
    """One add that is under way."""

    request: buffer_pb2.AddMessageRequest
    size: int
    number: int
    deadline_s: float
    # The one before it in its conversation, as long as that is under way.
    before: "_Entry | None"
    is_over: bool = False
    when_over: asyncio.Event | None = None
    # Of the stream; None says: to be sent by a unary call.
    answer: "asyncio.Future[buffer_pb2.AddMessageResponse | None] | None" = None
    # The request that carries it; 0 while none does.
    carrier: int = 0
    tries: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.request.instance, self.request.conversation

    def blocker(self) -> "_Entry | None":
        """The nearest earlier add of the conversation that is not over."""
        while self.before is not None and self.before.is_over:
            self.before = self.before.before
        return self.before

    async def until_over(self) -> None:
        if not self.is_over:
            self.when_over = self.when_over or asyncio.Event()
            await self.when_over.wait()

    def end(self) -> None:
        self.is_over = True
        if self.when_over is not None:
            self.when_over.set()

    def is_waiting(self) -> bool:
        """Somebody waits for the stream's answer."""
        return self.answer is not None and not self.answer.done()

    def settle(self, response: buffer_pb2.AddMessageResponse | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(response)

    def fail(self, error: TidegateError) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(copy.copy(error))


class Gatherer:
    """The adds of one client."""

    def __init__(self, connection: AsyncConnection):
        self._connection = connection
        self._numbers = itertools.count(1)
        self._newest: dict[tuple[str, str], _Entry] = {}
        self._under_way = 0
        self._waiting: deque[_Entry] = deque()
        self._in_flight: deque[tuple[int, list[_Entry]]] = deque()
        self._changed = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._backoff = Backoff(0.05, 1.0)
        self._unary_until_s = 0.0

    async def add(
        self, request: buffer_pb2.AddMessageRequest, timeout: timedelta | None
    ) -> buffer_pb2.AddMessageResponse:
        """The answer to one add. Raises TidegateError."""
        entry = self._enter(request, _channel.seconds(timeout, request))
        try:
            if self._under_way > 1 and entry.size <= MAX_BYTES and self._may_stream():
                response = await self._by_stream(entry)
                if response is not None:
                    return response
            return await self._by_unary(entry)
        finally:
            self._leave(entry)

    async def close(self) -> None:
        """Ends the stream; adds that are gathered fail."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])

    def _enter(self, request: buffer_pb2.AddMessageRequest, timeout_s: float) -> _Entry:
        key = request.instance, request.conversation
        entry = _Entry(
            request,
            size=request.ByteSize(),
            number=next(self._numbers),
            deadline_s=asyncio.get_running_loop().time() + timeout_s,
            before=self._newest.get(key),
        )
        self._newest[key] = entry
        self._under_way += 1
        return entry

    def _leave(self, entry: _Entry) -> None:
        entry.end()
        self._under_way -= 1
        earlier = entry.blocker()
        if self._newest[entry.key] is entry:
            if earlier is None:
                del self._newest[entry.key]
            else:
                self._newest[entry.key] = earlier
        if self._waiting:
            self._changed.set()

    def _may_stream(self) -> bool:
        return asyncio.get_running_loop().time() >= self._unary_until_s

    async def _by_unary(self, entry: _Entry) -> buffer_pb2.AddMessageResponse:
        loop = asyncio.get_running_loop()
        try:
            while (earlier := entry.blocker()) is not None:
                async with asyncio.timeout_at(entry.deadline_s):
                    await earlier.until_over()
        except TimeoutError:
            raise errors.late(self._connection.target) from None
        left = timedelta(seconds=entry.deadline_s - loop.time())
        return await self._connection.call(self._connection.buffer.AddMessage, entry.request, left)

    async def _by_stream(self, entry: _Entry) -> buffer_pb2.AddMessageResponse | None:
        loop = asyncio.get_running_loop()
        entry.answer = loop.create_future()
        alarm = loop.call_at(
            entry.deadline_s, lambda: entry.fail(errors.late(self._connection.target))
        )
        self._waiting.append(entry)
        self._start()
        try:
            return await entry.answer
        finally:
            alarm.cancel()

    def _start(self) -> None:
        self._changed.set()
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Keeps a stream as long as there is something to send, and a little longer."""
        failure = errors.closed()
        try:
            while self._waiting:
                rest_s = await self._stream()
                await asyncio.sleep(rest_s)
        except TidegateError as error:
            failure = error
        except Exception as error:
            log.exception("gathered adds fail")
            failure = ServerError(f"the client failed: {error!r}")
        finally:
            self._pump = None
            for entry in self._all():
                entry.fail(failure)

    def _all(self) -> list[_Entry]:
        """Everything sent and not sent, in the order of the calls; nothing is left after that."""
        sent = itertools.chain.from_iterable(entries for _, entries in self._in_flight)
        everything = sorted([*sent, *self._waiting], key=lambda entry: entry.number)
        self._in_flight.clear()
        self._waiting.clear()
        return everything

    async def _stream(self) -> float:
        """One stream from its first request to its end; returns the seconds to rest after it."""
        call = self._connection.stream_messages()
        writer = asyncio.create_task(self._write(call))
        try:
            await self._read(call)
            if writer.done() and not self._in_flight:  # it had been idle
                return 0
            error = Unavailable("the server ended the stream before it answered")
        except TimeoutError:
            return self._refused("the stream fell silent")
        except ServerError as unexpected:
            return self._refused(str(unexpected))
        except grpc.RpcError as rpc_error:
            error = self._connection.error(rpc_error)
            if error.code not in _BROKEN:
                return self._refused(str(error))
        finally:
            writer.cancel()
            call.cancel()
        return self._broke(error)

    def _refused(self, why: str) -> float:
        log.info("adds are not gathered for a minute: %s", why)
        self._unary_until_s = asyncio.get_running_loop().time() + UNARY_S
        for entry in self._all():
            entry.carrier = 0
            entry.settle(None)
        return 0

    def _broke(self, error: TidegateError) -> float:
        sent = [entry for _, entries in self._in_flight for entry in entries]
        self._in_flight.clear()
        if not sent and not self._waiting:
            return 0
        log.warning("the stream of adds broke; what had no answer goes again: %s", error)
        self._put_back(self._to_repeat(sent, error))
        return self._backoff.failed_s(error.retry_after)

    def _to_repeat(self, entries: Iterable[_Entry], error: TidegateError) -> list[_Entry]:
        """Those that somebody waits for and that may be tried once more. The others fail."""
        again: list[_Entry] = []
        for entry in entries:
            entry.carrier = 0
            entry.tries += 1
            if entry.tries >= MAX_TRIES:
                entry.fail(error)
            elif entry.is_waiting():
                again.append(entry)
        return again

    def _put_back(self, entries: Sequence[_Entry]) -> None:
        """In front of what came later."""
        if not entries:
            return
        waiting = sorted([*entries, *self._waiting], key=lambda entry: entry.number)
        self._waiting = deque(waiting)
        if self._may_stream():
            self._start()
        else:
            for entry in self._all():
                entry.settle(None)

    async def _write(self, call: "AddStream") -> None:
        for number in itertools.count(1):
            entries = await self._next_request(number)
            if not entries:
                await call.done_writing()
                return
            self._in_flight.append((number, entries))
            messages = [entry.request for entry in entries]
            request = buffer_pb2.StreamMessagesRequest(correlation_id=number, messages=messages)
            try:
                await call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError):
                return  # the stream is over, as its reader finds as well

    async def _next_request(self, number: int) -> list[_Entry]:
        """What is to be sent next; nothing if the stream has been idle for long enough."""
        while True:
            if len(self._in_flight) < MAX_REQUESTS_IN_FLIGHT and (entries := self._take(number)):
                return entries
            self._changed.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self._in_flight:
                    return []

    def _take(self, number: int) -> list[_Entry]:
        taken: list[_Entry] = []
        left: list[_Entry] = []
        size = 0
        while self._waiting and len(taken) < MAX_ENTRIES:
            entry = self._waiting[0]
            if entry.is_waiting() and size + entry.size > MAX_BYTES:
                break
            self._waiting.popleft()
            if not entry.is_waiting():
                continue  # cancelled, or too late
            earlier = entry.blocker()
            if earlier is None or earlier.carrier == number:
                entry.carrier = number
                size += entry.size
                taken.append(entry)
            else:
                left.append(entry)
        self._waiting.extendleft(reversed(left))
        return taken

    async def _read(self, call: "AddStream") -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                response = await call.read()
            if response is grpc.aio.EOF:
                return
            self._heed(cast("buffer_pb2.StreamMessagesResponse", response))

    def _heed(self, response: buffer_pb2.StreamMessagesResponse) -> None:
        number, entries = self._in_flight[0] if self._in_flight else (0, [])
        if response.correlation_id != number or len(response.results) != len(entries):
            raise ServerError("the server's answers do not match what was asked")
        self._in_flight.popleft()
        self._changed.set()
        self._backoff.succeeded()
        away: list[_Entry] = []
        for entry, result in zip(entries, response.results, strict=True):
            if result.WhichOneof("result") == "response":
                entry.settle(result.response)
                continue
            error = _decode.add_error(result.error)
            if error.code is grpc.StatusCode.UNAVAILABLE:
                away += self._to_repeat([entry], error)
            else:
                entry.fail(error)
        if away:
            self._repeat_later(away)

    def _repeat_later(self, entries: Sequence[_Entry]) -> None:
        backoff_s = 0.05 * 2 ** max(entry.tries for entry in entries)
        asyncio.get_running_loop().call_later(backoff_s, self._put_back, entries)
