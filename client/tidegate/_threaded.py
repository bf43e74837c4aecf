"""Batches for threads, the twin of subscription.py.

A thread reads each stream; one thread for each client, the timer, extends leases.
"""

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from tidegate import _delivery
from tidegate._channel import Connection, Stream
from tidegate._delivery import log
from tidegate._timer import Alarm, Timer
from tidegate.errors import LeaseLost, NotFound, TidegateError
from tidegate.models import NackAction
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

if TYPE_CHECKING:
    from grpc import Future, UnaryUnaryMultiCallable

_Request = TypeVar("_Request", delivery_pb2.AckBatchRequest, delivery_pb2.NackBatchRequest)
_Response = TypeVar("_Response")


class Batch(_delivery.BatchBase):
    """The messages of one conversation's window, leased to this subscriber.

    `with batch:` acknowledges it when the block ends well. When the block raises, the batch is
    given back, to be tried again (or, on KeyboardInterrupt and the like, to be given to anyone at
    once), and the exception goes on. The lease is extended meanwhile. A block that has settled the
    batch itself is not interfered with.

    `lease_lost` is set when the batch was given to somebody else meanwhile: a long block may look
    at it and stop early.
    """

    def __init__(
        self, connection: Connection, timer: Timer, wire: types_pb2.Batch, lease: timedelta
    ):
        super().__init__(wire, lease)
        self.lease_lost = threading.Event()
        self._connection = connection
        self._timer = timer
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None

    def ack(self, *, timeout: timedelta | None = None) -> bool:
        """Settles the batch as processed.

        True if this call did it, False if this lease had settled the batch before. Raises
        LeaseLost, NotFound.
        """
        rpc = self._connection.delivery.AckBatch
        return not self._settle(rpc, self._ack_request(), timeout).already_settled

    def nack(
        self,
        action: NackAction = NackAction.RETRY,
        *,
        retry_delay: timedelta | None = None,
        reason: str = "",
        timeout: timedelta | None = None,
    ) -> bool:
        """Gives the batch back as not processed.

        `retry_delay` is the least time until the next attempt, at most 1 h. `reason` is for people
        and kept with the attempt; it must hold no payload. True if this call did it, False if this
        lease had settled the batch before. Raises LeaseLost, NotFound.
        """
        rpc = self._connection.delivery.NackBatch
        request = self._nack_request(action, retry_delay, reason)
        return not self._settle(rpc, request, timeout).already_settled

    def extend(
        self, lease: timedelta | None = None, *, timeout: timedelta | None = None
    ) -> datetime:
        """Makes the lease end that long from now (default: its length) and returns its end.

        Lengths are 1 s to 10 min. Raises LeaseLost, NotFound.
        """
        lease, asked_at_s = self._lease if lease is None else lease, time.monotonic()
        rpc = self._connection.delivery.ExtendLease
        response = self._connection.call(rpc, self._extend_request(lease), timeout)
        return self._extended(response, lease, asked_at_s)

    def __enter__(self) -> Self:
        self._inside = True
        self._keep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside = False
        self._let_go()
        if self._over:
            return
        if error is None:
            self.ack()
        else:
            self._give_back(_delivery.nack_for(error), type(error).__name__)

    def _give_back(self, action: NackAction, reason: str) -> None:
        """As `nack`, with little time and no error: at worst the lease runs out."""
        try:
            self.nack(action, reason=reason, timeout=_delivery.GIVING_BACK)
        except TidegateError as error:
            log.warning("batch %s could not be given back: %s", self.id, error)

    def _settle(
        self,
        rpc: "UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: timedelta | None,
    ) -> _Response:
        self._let_go()
        try:
            response = self._connection.call(rpc, request, timeout)
        except (LeaseLost, NotFound):
            self._over = True
            self.lease_lost.set()
            raise
        except BaseException:
            if self._inside:
                self._keep()
            raise
        self._over = True
        return response

    def _keep(self) -> None:
        with self._lock:
            if not self._over:
                self._alarm = self._timer.call_later(self._half_life_s(), self._extend_soon)

    def _let_go(self) -> None:
        with self._lock:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def _extend_soon(self) -> None:
        with self._lock:
            alarm, lease, asked_at_s = self._alarm, self._lease, time.monotonic()

        def answered(future: "Future[delivery_pb2.ExtendLeaseResponse]") -> None:
            with self._lock:
                if self._alarm is alarm is not None:
                    self._heed(future, lease, asked_at_s)

        rpc = self._connection.delivery.ExtendLease
        request = self._extend_request(lease)
        self._connection.begin(rpc, request, self._extension_timeout()).add_done_callback(answered)

    def _heed(
        self,
        future: "Future[delivery_pb2.ExtendLeaseResponse]",
        lease: timedelta,
        asked_at_s: float,
    ) -> None:
        try:
            self._extended(self._connection.result(future), lease, asked_at_s)
            delay_s = self._half_life_s()
        except (LeaseLost, NotFound):
            log.warning("the lease of batch %s is lost", self.id)
            self.lease_lost.set()
            return
        except TidegateError as error:
            log.warning("the lease of batch %s is not extended yet: %s", self.id, error)
            delay_s = self._retry_extension_s()
        self._alarm = self._timer.call_later(delay_s, self._extend_soon)


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
        self._changed = threading.Condition()
        self._stream: Stream | None = None
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

    def _open_stream(self) -> Stream:
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

    def _read_events(self, stream: Stream, backoff: _delivery.Backoff) -> float:
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
            case _:
                pass

    def _arrived(self, wire: types_pb2.Batch) -> None:
        batch = Batch(self._connection, self._timer, wire, self._lease)
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


def _fell_silent(stream: Stream) -> None:
    log.warning("the subscription fell silent; subscribing again")
    stream.cancel()
