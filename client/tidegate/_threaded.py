"""Batches for threads, the twin of subscription.py.

A thread reads each stream; the client's timer watches over it.
"""

import threading
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import grpc

from tidegate import _delivery
from tidegate._channel import Connection, Stream
from tidegate._delivery import log
from tidegate._threaded_batch import Batch
from tidegate._timer import Alarm, Timer
from tidegate.errors import TidegateError
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

if TYPE_CHECKING:
    from grpc import Future


@dataclass(eq=False, slots=True)
class _Waiting:
    """A batch that nobody has taken yet."""

    batch: Batch
    release: delivery_pb2.NackBatchRequest
    alarm: Alarm | None = None

    def taken(self) -> Batch:
        if self.alarm is not None:
            self.alarm.cancel()
        return self.batch


class Subscription:
    """A stream of batches. Made by `Client.subscribe`; enter it, then iterate over it.

    Reconnects by itself whenever the stream ends, fails or falls silent; batches in hand stay
    valid. Several threads may iterate over the same subscription, each batch goes to one of them.
    The iteration raises when no reconnect will help: InvalidArgument, Unauthenticated,
    PermissionDenied, or ServerError for a server that knows no subscriptions.

    At most `max_in_flight` unsettled batches are sent on a stream. One that nobody has taken when
    half of its lease is over is released, so that another subscriber may have it.
    """

    def __init__(
        self, connection: Connection, timer: Timer, request: delivery_pb2.SubscribeRequest
    ):
        self._connection = connection
        self._timer = timer
        self._request = request
        self._lease = request.lease_duration.ToTimedelta()
        self._room = max(1, request.max_in_flight)
        self._waiting: deque[_Waiting] = deque()
        self._batches: weakref.WeakValueDictionary[str, Batch] = weakref.WeakValueDictionary()
        self._changed = threading.Condition()
        self._stream: Stream[delivery_pb2.SubscribeResponse] | None = None
        self._reader: threading.Thread | None = None
        self._failure: Exception | None = None
        self._ended = False

    def __enter__(self) -> Self:
        if self._reader is not None or self._ended:
            raise TidegateError("a subscription can be entered only once; subscribe again")
        self._reader = threading.Thread(target=self._read, name="tidegate-reader", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._reader is None and not self._ended:
            raise TidegateError("enter the subscription first: with client.subscribe(...)")
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                raise self._failure or StopIteration
            self._changed.notify_all()
            return self._waiting.popleft().taken()

    def close(self) -> None:
        """Ends the stream. Releases batches that nobody has taken; taken ones can be settled."""
        with self._changed:
            self._ended = True
            stream = self._stream
            self._changed.notify_all()
        if stream is not None:
            stream.cancel()
        if self._reader is not None:
            self._reader.join()
        self._release_all()

    def _release_all(self) -> None:
        """Best effort: at worst the leases run out."""
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        with suppress(TidegateError):
            answers = [self._begin_release(waiting) for waiting in left]
            for answer in answers:
                self._released(answer)

    def _read(self) -> None:
        backoff = _delivery.Backoff()
        try:
            while self._wait_for_room():
                self._pause(self._read_stream(backoff))
        except TidegateError as error:
            self._failure = None if self._ended else error
        except Exception as error:
            log.exception("the subscription ends")
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Keeps memory bounded where streams break faster than batches are taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._waiting) < self._room)
            return not self._ended

    def _pause(self, delay_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended, delay_s)

    def _open_stream(self) -> Stream[delivery_pb2.SubscribeResponse]:
        stream = self._connection.subscribe(self._request)
        with self._changed:
            self._stream = stream
            if self._ended:
                stream.cancel()
        return stream

    def _read_stream(self, backoff: _delivery.Backoff) -> float:
        """Reads one stream to its end; returns the seconds to wait before the next."""
        stream = self._open_stream()
        try:
            return self._read_events(stream, backoff)
        except grpc.RpcError as rpc_error:
            error = self._connection.error(rpc_error)
            if error.code in _delivery.HOPELESS:
                raise error from None
            if not self._ended:
                log.warning("the subscription broke; subscribing again: %s", error)
            return backoff.failed_s(error.retry_after)
        finally:
            stream.cancel()

    def _read_events(
        self, stream: Stream[delivery_pb2.SubscribeResponse], backoff: _delivery.Backoff
    ) -> float:
        patience_s = _delivery.OPENING_S
        watchdog = self._timer.call_later(patience_s, lambda: _fell_silent(stream))
        try:
            for event in stream:
                watchdog.cancel()
                if event.WhichOneof("event") == "closing":
                    return backoff.drained_s()
                if event.WhichOneof("event") == "opened":
                    patience_s = _delivery.longest_silence_s(event.opened)
                self._heed(event, backoff)
                watchdog = self._timer.call_later(patience_s, lambda: _fell_silent(stream))
            return backoff.failed_s()
        finally:
            watchdog.cancel()

    def _heed(self, event: delivery_pb2.SubscribeResponse, backoff: _delivery.Backoff) -> None:
        match event.WhichOneof("event"):
            case "opened":
                self._lease = event.opened.lease_duration.ToTimedelta() or self._lease
            case "batch":
                backoff.succeeded()
                self._arrived(event.batch)
            case "heartbeat":
                backoff.succeeded()
            case "superseded":
                _delivery.mark_superseded(self._batches, event.superseded)
            case _:
                pass

    def _arrived(self, wire: types_pb2.Batch) -> None:
        batch = Batch(self._connection, self._timer, wire, self._lease)
        self._batches[batch.id] = batch
        waiting = _Waiting(batch, _delivery.release_request(wire))
        with self._changed:
            waiting.alarm = self._timer.call_later(
                self._lease.total_seconds() / 2, lambda: self._release(waiting)
            )
            self._waiting.append(waiting)
            self._changed.notify_all()

    def _release(self, waiting: _Waiting) -> None:
        with self._changed:
            if waiting not in self._waiting:
                return
            self._waiting.remove(waiting)
            self._changed.notify_all()
        # Its callback also keeps the call alive: gRPC cancels one that nobody refers to.
        self._begin_release(waiting).add_done_callback(self._released)

    def _released(self, answer: "Future[delivery_pb2.NackBatchResponse]") -> None:
        try:
            self._connection.result(answer)
        except TidegateError as error:
            log.warning("a batch could not be released: %s", error)

    def _begin_release(self, waiting: _Waiting) -> "Future[delivery_pb2.NackBatchResponse]":
        waiting.taken()
        rpc = self._connection.delivery.NackBatch
        return self._connection.begin(rpc, waiting.release, _delivery.GIVING_BACK)


def _fell_silent(stream: Stream[delivery_pb2.SubscribeResponse]) -> None:
    log.warning("the subscription fell silent; subscribing again")
    stream.cancel()
