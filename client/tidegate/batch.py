"""A batch for asyncio: settled once, with a lease that lives as long as the work."""

import asyncio
import time
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from tidegate import _delivery
from tidegate._channel import AsyncConnection
from tidegate._delivery import log
from tidegate.errors import LeaseLost, NotFound, Superseded, TidegateError
from tidegate.models import NackAction
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

__all__ = ["Batch"]

_Request = TypeVar("_Request", delivery_pb2.AckBatchRequest, delivery_pb2.NackBatchRequest)
_Response = TypeVar("_Response")


class Batch(_delivery.BatchBase):
    """The messages of one conversation's window, leased to this subscriber.

    `async with batch:` acknowledges it when the block ends well. When the block raises, the batch
    is given back, to be tried again (or, when the task is cancelled, to be given to anyone at
    once), and the exception goes on. The lease is extended meanwhile. A block that has settled the
    batch itself is not interfered with.

    `lease_lost` is set when the batch was given to somebody else meanwhile: a long block may look
    at it and stop early. `superseded` is set when newer messages arrived in the conversation
    meanwhile, as far as the server says so: a hint, given for batches of a subscription. `commit`
    is the authority.
    """

    def __init__(self, connection: AsyncConnection, wire: types_pb2.Batch, lease: timedelta):
        super().__init__(wire, lease)
        self.lease_lost = asyncio.Event()
        self.superseded = asyncio.Event()
        self._connection = connection
        self._keeper: asyncio.Task[None] | None = None

    async def ack(self, *, timeout: timedelta | None = None) -> bool:
        """Settles the batch as processed.

        True if this call did it, False if this lease had settled the batch before. Raises
        LeaseLost, NotFound.
        """
        return await self._acknowledge(False, timeout)

    async def commit(
        self, *, give_in_after: int | None = None, timeout: timedelta | None = None
    ) -> bool:
        """Settles the batch as processed, if no newer message has arrived in the conversation.

        To be called when the reply is ready and not yet sent. If the user wrote again meanwhile it
        raises Superseded: nothing is to be sent, the messages come again in a later batch, together
        with the newer ones. In `async with batch:` that error ends the block and no more. What the
        block raises after a commit goes on, and the batch stays settled.

        A user who never stops writing would never be answered: a batch whose oldest message has
        been put back `give_in_after` times (`info.rebuffer_count`) is settled all the same. None:
        never give in.

        True if this call did it, False if this lease had settled the batch before. Raises
        Superseded, LeaseLost, NotFound.
        """
        puts_back = give_in_after is None or self.info.rebuffer_count < give_in_after
        return await self._acknowledge(puts_back, timeout)

    async def nack(
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
        response = await self._settle(rpc, request, timeout)
        return not response.already_settled

    async def extend(
        self, lease: timedelta | None = None, *, timeout: timedelta | None = None
    ) -> datetime:
        """Makes the lease end that long from now (default: its length) and returns its end.

        Lengths are 1 s to 10 min. Raises LeaseLost, NotFound.
        """
        lease, asked_at_s = self._lease if lease is None else lease, time.monotonic()
        rpc = self._connection.delivery.ExtendLease
        response = await self._connection.call(rpc, self._extend_request(lease), timeout)
        return self._extended(response, lease, asked_at_s)

    async def __aenter__(self) -> Self:
        self._inside = True
        self._keep()
        return self

    async def __aexit__(
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
            await self.ack()
        else:
            await self._give_back(_delivery.nack_for(error), type(error).__name__)
        return None

    async def _acknowledge(self, only_if_current: bool, timeout: timedelta | None) -> bool:
        rpc = self._connection.delivery.AckBatch
        request = self._ack_request(only_if_current=only_if_current)
        response = await self._settle(rpc, request, timeout)
        return not response.already_settled

    async def _give_back(self, action: NackAction, reason: str) -> None:
        """As `nack`, with little time and no error: at worst the lease runs out."""
        try:
            await self.nack(action, reason=reason, timeout=_delivery.GIVING_BACK)
        except TidegateError as error:
            log.warning("batch %s could not be given back: %s", self.id, error)

    async def _settle(
        self,
        rpc: "UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout: timedelta | None,
    ) -> _Response:
        self._let_go()
        try:
            response = await self._connection.call(rpc, request, timeout)
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
        if not self._over:
            self._keeper = asyncio.create_task(self._extend_while_held())

    def _let_go(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def _extend_while_held(self) -> None:
        while True:
            await asyncio.sleep(self._half_life_s())
            try:
                await self.extend(timeout=self._extension_timeout())
            except (LeaseLost, NotFound):
                log.warning("the lease of batch %s is lost", self.id)
                self.lease_lost.set()
                return
            except TidegateError as error:
                log.warning("the lease of batch %s is not extended yet: %s", self.id, error)
                await asyncio.sleep(self._retry_extension_s())
