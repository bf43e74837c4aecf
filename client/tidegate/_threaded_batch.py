"""A batch for threads, the twin of batch.py. The client's timer extends its lease."""

import threading
import time
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from tidegate import _delivery
from tidegate._channel import Connection
from tidegate._delivery import log
from tidegate._timer import Alarm, Timer
from tidegate.errors import LeaseLost, NotFound, Superseded, TidegateError
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
    at it and stop early. `superseded` is set when newer messages arrived in the conversation
    meanwhile, as far as the server says so: a hint, given for batches of a subscription. `commit`
    is the authority.
    """

    def __init__(
        self, connection: Connection, timer: Timer, wire: types_pb2.Batch, lease: timedelta
    ):
        super().__init__(wire, lease)
        self.lease_lost = threading.Event()
        self.superseded = threading.Event()
        self._connection = connection
        self._timer = timer
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None

    def ack(self, *, timeout: timedelta | None = None) -> bool:
        """Settles the batch as processed.

        True if this call did it, False if this lease had settled the batch before. Raises
        LeaseLost, NotFound.
        """
        return self._acknowledge(False, timeout)

    def commit(self, *, give_in_after: int | None = None, timeout: timedelta | None = None) -> bool:
        """Settles the batch as processed, if no newer message has arrived in the conversation.

        To be called when the reply is ready and not yet sent. If the user wrote again meanwhile it
        raises Superseded: nothing is to be sent, the messages come again in a later batch, together
        with the newer ones. In `with batch:` that error ends the block and no more. What the
        block raises after a commit goes on, and the batch stays settled.

        A user who never stops writing would never be answered: a batch whose oldest message has
        been put back `give_in_after` times (`info.rebuffer_count`) is settled all the same. None:
        never give in.

        True if this call did it, False if this lease had settled the batch before. Raises
        Superseded, LeaseLost, NotFound.
        """
        puts_back = give_in_after is None or self.info.rebuffer_count < give_in_after
        return self._acknowledge(puts_back, timeout)

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
    ) -> bool | None:
        self._inside = False
        self._let_go()
        if self._over:
            return error is not None and error is self._superseding
        if error is None:
            self.ack()
        else:
            self._give_back(_delivery.nack_for(error), type(error).__name__)
        return None

    def _acknowledge(self, only_if_current: bool, timeout: timedelta | None) -> bool:
        rpc = self._connection.delivery.AckBatch
        request = self._ack_request(only_if_current=only_if_current)
        response = self._settle(rpc, request, timeout)
        return not response.already_settled

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
        except Superseded as error:
            self._over = True
            self._superseding = error
            self.superseded.set()
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
