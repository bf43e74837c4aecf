"""DeliveryService: the subscriber's side."""

import asyncio
import math
from dataclasses import dataclass

from tidegate.v1 import delivery_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert, validate
from tidegate_server.api.rpc import Call, must_cover
from tidegate_server.core.model import Batch, BatchState, DeliveryChannel, NackAction
from tidegate_server.core.window import MAX_WIRE_BYTES
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import TidegateError
from tidegate_server.logs import get_logger
from tidegate_server.sinks.stream import Closing, Subscriber, Superseded

MAX_RESPONSE_BYTES = 3_670_016
LARGEST_BATCH_BYTES = MAX_WIRE_BYTES + (48 << 10)
"""A batch on the wire: the stored bytes, and for 500 messages place, time and framing."""

DEFAULT_WAIT_MS, LONGEST_WAIT_MS = 20_000, 60_000
LOOK_S = 0.1
"""Even a Pull that does not want to wait gives the store this long to answer."""

_log = get_logger("api")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a subscriber asks for, checked."""

    subscriber_id: str
    instances: frozenset[str]
    max_in_flight: int
    lease_ms: int
    channel: DeliveryChannel


class DeliveryService:
    """Hands batches to subscribers and takes their settlements.

    `lease_ms` is the lease of a subscriber that asks for none, `heartbeat_ms` the longest silence
    of a stream.
    """

    def __init__(self, engine: Engine, *, max_attempts: int, lease_ms: int, heartbeat_ms: int):
        self._engine = engine
        self._max_attempts = max_attempts
        self._lease_ms = lease_ms
        self._heartbeat_ms = heartbeat_ms

    async def subscribe(self, request: rpc.SubscribeRequest, call: Call) -> None:
        """Stream batches until the client leaves or the server drains."""
        most = validate.number(request.max_in_flight, "max_in_flight", default=8, most=1000)
        wish = self._wish(request, call, most, DeliveryChannel.STREAM)
        subscriber = self._subscribe(wish)
        try:
            await call.write(self._opened(subscriber))
            await self._stream(subscriber, call)
        finally:
            await asyncio.shield(self._engine.unsubscribe(subscriber))

    async def pull(self, request: rpc.PullRequest, call: Call) -> rpc.PullResponse:
        """Wait for a first batch and take those that are ready with it."""
        most = validate.number(request.max_batches, "max_batches", default=1, most=100)
        wish = self._wish(request, call, most, DeliveryChannel.PULL)
        wait_s = _wait_s(request, call)
        subscriber = self._subscribe(wish)
        taken: list[Batch] = []
        try:
            try:
                return await self._gather(subscriber, taken, wait_s)
            finally:
                await asyncio.shield(self._engine.unsubscribe(subscriber))
        except BaseException:
            await asyncio.shield(self._release(taken))
            raise

    async def ack_batch(self, request: rpc.AckBatchRequest, call: Call) -> rpc.AckBatchResponse:
        """Settle a batch as processed."""
        batch_id, token = await self._lease(request, call)
        settled = await call.in_time(
            self._engine.ack(batch_id, token, only_if_current=request.only_if_current)
        )
        return rpc.AckBatchResponse(already_settled=settled.already, state=_state(settled.state))

    async def nack_batch(self, request: rpc.NackBatchRequest, call: Call) -> rpc.NackBatchResponse:
        """Give a batch back."""
        batch_id, token = await self._lease(request, call)
        settled = await call.in_time(
            self._engine.nack(
                batch_id,
                token,
                _action(request),
                retry_delay_ms=validate.duration_ms(
                    request.retry_delay, "retry_delay", least_ms=0, most_ms=validate.HOUR_MS
                ),
                reason="NACKED",
                message=validate.text(request.reason, "reason", most=1024),
            )
        )
        response = rpc.NackBatchResponse(
            already_settled=settled.already, state=_state(settled.state)
        )
        if settled.next_attempt_at_ms is not None:
            response.next_attempt_at.CopyFrom(convert.timestamp(settled.next_attempt_at_ms))
        return response

    async def extend_lease(
        self, request: rpc.ExtendLeaseRequest, call: Call
    ) -> rpc.ExtendLeaseResponse:
        """Move the end of a lease."""
        batch_id, token = await self._lease(request, call)
        lease_ms = validate.lease_ms(request, request.lease_duration, None)
        extended = await call.in_time(self._engine.extend(batch_id, token, lease_ms))
        return rpc.ExtendLeaseResponse(
            lease_expires_at=convert.timestamp(extended.lease_expires_at_ms)
        )

    def _wish(
        self,
        request: rpc.SubscribeRequest | rpc.PullRequest,
        call: Call,
        most: int,
        channel: DeliveryChannel,
    ) -> _Wish:
        lease_ms = validate.lease_ms(request, request.lease_duration, self._lease_ms)
        return _Wish(
            subscriber_id=validate.subscriber_id(request.subscriber_id),
            instances=call.access.some(validate.instances(request.instances)),
            max_in_flight=most,
            lease_ms=lease_ms or self._lease_ms,
            channel=channel,
        )

    async def _lease(
        self,
        request: rpc.AckBatchRequest | rpc.NackBatchRequest | rpc.ExtendLeaseRequest,
        call: Call,
    ) -> tuple[str, str]:
        """The batch and the token of a settlement."""
        token = validate.lease_token(request.lease_token)
        batch_id = validate.batch_id(request.batch_id)
        await call.in_time(must_cover(self._engine.store, batch_id, call))
        return batch_id, token

    def _subscribe(self, wish: _Wish) -> Subscriber:
        return self._engine.subscribe(
            wish.subscriber_id,
            instances=wish.instances,
            max_in_flight=wish.max_in_flight,
            lease_ms=wish.lease_ms,
            channel=wish.channel,
        )

    def _opened(self, subscriber: Subscriber) -> rpc.SubscribeResponse:
        opened = rpc.SubscriptionOpened(
            subscription_id=subscriber.subscription_id,
            max_in_flight=subscriber.max_in_flight,
            lease_duration=convert.duration(subscriber.lease_ms),
            heartbeat_interval=convert.duration(self._heartbeat_ms),
        )
        return rpc.SubscribeResponse(opened=opened)

    async def _stream(self, subscriber: Subscriber, call: Call) -> None:
        clock, interval = asyncio.get_running_loop().time, self._heartbeat_ms / 1000
        silent_until = clock() + interval
        while True:
            event = await subscriber.next(max(0, silent_until - clock()))
            response = await self._response(event, subscriber)
            if response is not None:
                await call.write(response)
                silent_until = clock() + interval
            if isinstance(event, Closing):
                return

    async def _response(
        self, event: Batch | Superseded | Closing | None, subscriber: Subscriber
    ) -> rpc.SubscribeResponse | None:
        """What to send for an event; None for a batch that cannot be handed out."""
        if isinstance(event, Batch):
            response = rpc.SubscribeResponse()
            return response if await self._fill(response.batch, event) else None
        if isinstance(event, Closing):
            ends = convert.timestamp(event.closes_at_ms)
            closing = rpc.SubscriptionClosing(reason=event.reason, closes_at=ends)
            return rpc.SubscribeResponse(closing=closing)
        if isinstance(event, Superseded):
            return rpc.SubscribeResponse(superseded=_superseded(event))
        now = convert.timestamp(self._engine.clock.now_ms())
        return rpc.SubscribeResponse(
            heartbeat=rpc.Heartbeat(time=now, in_flight=subscriber.in_flight)
        )

    async def _gather(
        self, subscriber: Subscriber, taken: list[Batch], wait_s: float
    ) -> rpc.PullResponse:
        """The answer to a Pull. Stops while the largest batch there can be would still fit."""
        clock = asyncio.get_running_loop().time
        response, size, until = rpc.PullResponse(), 0, clock() + wait_s
        room = MAX_RESPONSE_BYTES - LARGEST_BATCH_BYTES
        while len(response.batches) < subscriber.max_in_flight and size <= room:
            wait_s = 0 if response.batches else max(0, until - clock())
            event = await subscriber.next(wait_s)
            if not isinstance(event, Batch):
                break
            taken.append(event)
            wire = response.batches.add()
            if await self._fill(wire, event):
                size += wire.ByteSize()
            else:
                del response.batches[-1]
                taken.pop()
        return response

    async def _fill(self, wire: pb.Batch, batch: Batch) -> bool:
        """Fill in a batch; one that cannot be read becomes a dead letter, and the answer is no."""
        try:
            convert.fill_batch(wire, batch, self._max_attempts)
        except convert.CorruptBody as corrupt:
            await self._bury(batch, str(corrupt))
            return False
        return True

    async def _bury(self, batch: Batch, why: str) -> None:
        name, action = batch.info.batch_id, NackAction.DEAD_LETTER
        _log.error("a batch cannot be read and becomes a dead letter", batch_id=name, why=why)
        try:
            await self._engine.nack(name, batch.token, action, reason="CORRUPT", message=why)
        except TidegateError as error:
            _log.warning("it stays leased for now", batch_id=name, why=str(error))

    async def _release(self, batches: list[Batch]) -> None:
        """Give back what was taken and not sent. What fails comes back when its lease expires."""
        releases = (
            self._engine.nack(
                batch.info.batch_id, batch.token, NackAction.RELEASE, reason="RELEASED"
            )
            for batch in batches
        )
        await asyncio.gather(*releases, return_exceptions=True)


def _superseded(event: Superseded) -> rpc.BatchSuperseded:
    return rpc.BatchSuperseded(
        batch_id=event.batch_id,
        conversation=convert.conversation(event.conversation),
        buffer=convert.buffer(event.buffer),
    )


def _wait_s(request: rpc.PullRequest, call: Call) -> float:
    """How long a Pull waits for its first batch: as asked for, within the call's deadline."""
    wait_ms = DEFAULT_WAIT_MS
    if request.HasField("wait"):
        most = LONGEST_WAIT_MS
        wait_ms = validate.duration_ms(request.wait, "wait", least_ms=0, most_ms=most)
    left = call.time_left()
    return min(max(wait_ms / 1000, LOOK_S), math.inf if left is None else left)


def _action(request: rpc.NackBatchRequest) -> NackAction:
    known = request.action in _ACTIONS
    return NackAction(request.action) if known else NackAction.RETRY


def _state(state: BatchState) -> pb.BatchState.ValueType:
    return pb.BatchState.ValueType(state)


_ACTIONS = frozenset(NackAction)
