"""Batches for asyncio: a stream that mends itself."""

import asyncio
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, Self, cast

import grpc
import grpc.aio

from tidegate import _delivery, errors
from tidegate._channel import AsyncConnection
from tidegate._delivery import log
from tidegate.batch import Batch
from tidegate.errors import TidegateError
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

__all__ = ["Subscription"]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A batch that nobody has taken yet."""

    batch: Batch
    release: delivery_pb2.NackBatchRequest
    alarm: asyncio.TimerHandle | None = None

    def taken(self) -> Batch:
        if self.alarm is not None:
            self.alarm.cancel()
        return self.batch


class Subscription:
    """A stream of batches. Made by `Client.subscribe`; enter it, then iterate over it.

    Reconnects by itself whenever the stream ends, fails or falls silent; batches in hand stay
    valid. Several tasks may iterate over the same subscription, each batch goes to one of them.
    The iteration raises when no reconnect will help: InvalidArgument, Unauthenticated,
    PermissionDenied, or ServerError for a server that knows no subscriptions.

    At most `max_in_flight` unsettled batches are sent on a stream. One that nobody has taken when
    half of its lease is over is released, so that another subscriber may have it.
    """

    def __init__(self, connection: AsyncConnection, request: delivery_pb2.SubscribeRequest):
        self._connection = connection
        self._request = request
        self._lease = request.lease_duration.ToTimedelta()
        self._room = max(1, request.max_in_flight)
        self._waiting: deque[_Waiting] = deque()
        self._batches: weakref.WeakValueDictionary[str, Batch] = weakref.WeakValueDictionary()
        self._changed = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        if self._reader is not None or self._ended:
            raise TidegateError("a subscription can be entered only once; subscribe again")
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._reader is None and not self._ended:
            raise TidegateError("enter the subscription first: async with client.subscribe(...)")
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                raise self._failure or StopAsyncIteration
            self._changed.notify_all()
            return self._waiting.popleft().taken()

    async def close(self) -> None:
        """Ends the stream. Releases batches that nobody has taken; taken ones can be settled."""
        self._ended = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._end()
        await asyncio.gather(*map(self._release, list(self._waiting)), *self._background)

    async def _read(self) -> None:
        backoff = _delivery.Backoff()
        try:
            while True:
                await self._wait_for_room()
                await asyncio.sleep(await self._read_stream(backoff))
        except TidegateError as error:
            self._failure = error
        except asyncio.CancelledError:
            if not self._ended:  # a channel that is closed cancels its calls
                self._failure = errors.closed()
            raise
        except Exception as error:
            log.exception("the subscription ends")
            self._failure = error
        finally:
            await self._end()

    async def _end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def _wait_for_room(self) -> None:
        """Keeps memory bounded where streams break faster than batches are taken."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._waiting) < self._room)

    async def _read_stream(self, backoff: _delivery.Backoff) -> float:
        """Reads one stream to its end; returns the seconds to wait before the next."""
        call = self._connection.subscribe(self._request)
        try:
            return await self._read_events(call, backoff)
        except TimeoutError:
            log.warning("the subscription fell silent; subscribing again")
            return backoff.failed_s()
        except grpc.RpcError as rpc_error:
            error = self._connection.error(rpc_error)
            if error.code in _delivery.HOPELESS:
                raise error from None
            log.warning("the subscription broke; subscribing again: %s", error)
            return backoff.failed_s(error.retry_after)
        finally:
            call.cancel()

    async def _read_events(
        self,
        call: "grpc.aio.UnaryStreamCall[Any, delivery_pb2.SubscribeResponse]",
        backoff: _delivery.Backoff,
    ) -> float:
        patience_s = _delivery.OPENING_S
        while True:
            async with asyncio.timeout(patience_s):
                response = await call.read()
            if response is grpc.aio.EOF:
                return backoff.failed_s()
            event = cast("delivery_pb2.SubscribeResponse", response)
            match event.WhichOneof("event"):
                case "opened":
                    patience_s = _delivery.longest_silence_s(event.opened)
                    self._lease = event.opened.lease_duration.ToTimedelta() or self._lease
                case "batch":
                    backoff.succeeded()
                    await self._arrived(event.batch)
                case "heartbeat":
                    backoff.succeeded()
                case "superseded":
                    _delivery.mark_superseded(self._batches, event.superseded)
                case "closing":
                    return backoff.drained_s()
                case _:
                    pass

    async def _arrived(self, wire: types_pb2.Batch) -> None:
        batch = Batch(self._connection, wire, self._lease)
        self._batches[batch.id] = batch
        waiting = _Waiting(batch, _delivery.release_request(wire))
        loop = asyncio.get_running_loop()
        async with self._changed:
            waiting.alarm = loop.call_later(
                self._lease.total_seconds() / 2, self._start_release, waiting
            )
            self._waiting.append(waiting)
            self._changed.notify_all()

    def _start_release(self, waiting: _Waiting) -> None:
        task = asyncio.create_task(self._release(waiting))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _release(self, waiting: _Waiting) -> None:
        async with self._changed:
            if waiting not in self._waiting:
                return
            self._waiting.remove(waiting)
            self._changed.notify_all()
        batch = waiting.taken()
        rpc = self._connection.delivery.NackBatch
        try:
            await self._connection.call(rpc, waiting.release, _delivery.GIVING_BACK)
        except TidegateError as error:
            log.warning("batch %s could not be released: %s", batch.id, error)
