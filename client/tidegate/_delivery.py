"""What the asyncio and the blocking side of delivery share: all but input and output."""

import asyncio
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import grpc

from tidegate import _decode, _encode
from tidegate.errors import Superseded
from tidegate.models import BatchInfo, NackAction, ReceivedMessage
from tidegate.v1 import delivery_service_pb2 as delivery_pb2
from tidegate.v1 import types_pb2

log = logging.getLogger("tidegate")

# Errors of a stream that no reconnect will mend.
HOPELESS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# Longest wait, in seconds, for a stream's first response; the later ones follow the heartbeat.
OPENING_S = 10.0
# What giving a batch back may take where somebody waits to leave.
GIVING_BACK = timedelta(seconds=2)


def default_subscriber_id() -> str:
    """Host and process: the pod's name in Kubernetes."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}"


class Backoff:
    """How long to wait before the next try: 0.1 s, 0.2 s, ... 5 s, less up to half of it."""

    def __init__(self, first_s: float = 0.1, last_s: float = 5.0):
        self._first_s, self._last_s = first_s, last_s
        self._failures = 0

    def succeeded(self) -> None:
        """A stream did its work."""
        self._failures = 0

    def failed_s(self, retry_after: timedelta | None = None) -> float:
        """Seconds to wait after a stream that failed; at least what the server asked for."""
        ceiling = min(self._first_s * 2 ** min(self._failures, 10), self._last_s)
        self._failures += 1
        jittered = ceiling * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        return max(jittered, retry_after.total_seconds() if retry_after else 0)

    def drained_s(self) -> float:
        """Seconds to wait after `closing`: none, unless streams keep closing at once."""
        if self._failures == 0:
            self._failures = 1
            return 0
        return self.failed_s()


def longest_silence_s(opened: delivery_pb2.SubscriptionOpened) -> float:
    """Seconds of silence after which a stream counts as dead: three heartbeat intervals."""
    interval = opened.heartbeat_interval.ToTimedelta().total_seconds()
    return 3 * interval if interval > 0 else 3 * OPENING_S


def nack_for(error: BaseException) -> NackAction:
    """What becomes of a batch whose block was left by that exception.

    A failure is tried again later. A cancelled task or a leaving process has not failed: the batch
    is free for another subscriber at once.
    """
    return NackAction.RETRY if isinstance(error, Exception) else NackAction.RELEASE


def release_request(wire: types_pb2.Batch) -> delivery_pb2.NackBatchRequest:
    """Gives a batch that nobody has looked at to anyone else."""
    return delivery_pb2.NackBatchRequest(
        batch_id=wire.info.batch_id,
        lease_token=wire.lease_token,
        action=delivery_pb2.NACK_ACTION_RELEASE,
    )


class _HasSuperseded(Protocol):
    @property
    def superseded(self) -> asyncio.Event | threading.Event: ...


def mark_superseded(
    batches: Mapping[str, _HasSuperseded], hint: delivery_pb2.BatchSuperseded
) -> None:
    """Tells the batch, if anybody still has it."""
    batch = batches.get(hint.batch_id)
    if batch is not None:
        batch.superseded.set()


class BatchBase:
    """The messages of one conversation's window, leased to this subscriber."""

    def __init__(self, wire: types_pb2.Batch, lease: timedelta):
        self.info: BatchInfo = _decode.batch_info(wire.info)
        self.messages: tuple[ReceivedMessage, ...] = _decode.received_messages(wire.messages)
        self.lease_expires_at: datetime = _decode.always(wire.lease_expires_at)
        self.traceparent: str = wire.traceparent
        self.tracestate: str = wire.tracestate
        self._token = wire.lease_token
        self._lease = lease
        self._leased_at_s = time.monotonic()
        self._inside = False
        self._over = False
        self._superseding: Superseded | None = None

    @property
    def id(self) -> str:
        """Stays the same over all deliveries: use it to de-duplicate."""
        return self.info.batch_id

    @property
    def instance(self) -> str:
        """The tenant."""
        return self.info.instance

    @property
    def conversation(self) -> str:
        """The conversation inside the instance."""
        return self.info.conversation

    @property
    def attempt(self) -> int:
        """Which delivery this is, from 1."""
        return self.info.attempt

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.id} of {self.instance}: {len(self.messages)} messages, "
            f"attempt {self.attempt}>"
        )

    def _half_life_s(self) -> float:
        """Seconds until half of the lease is over; 0 if it is."""
        half = self._leased_at_s + self._lease.total_seconds() / 2
        return max(0.0, half - time.monotonic())

    def _retry_extension_s(self) -> float:
        return self._lease.total_seconds() / 10

    def _extension_timeout(self) -> timedelta:
        return min(max(self._lease / 2, timedelta(seconds=1)), timedelta(seconds=5))

    def _ack_request(self, *, only_if_current: bool) -> delivery_pb2.AckBatchRequest:
        return delivery_pb2.AckBatchRequest(
            batch_id=self.id, lease_token=self._token, only_if_current=only_if_current
        )

    def _nack_request(
        self, action: NackAction, retry_delay: timedelta | None, reason: str
    ) -> delivery_pb2.NackBatchRequest:
        return _encode.nack_request(
            self.id, self._token, action=action, retry_delay=retry_delay, reason=reason
        )

    def _extend_request(self, lease: timedelta) -> delivery_pb2.ExtendLeaseRequest:
        return _encode.extend_request(self.id, self._token, lease=lease)

    def _extended(
        self, response: delivery_pb2.ExtendLeaseResponse, lease: timedelta, asked_at_s: float
    ) -> datetime:
        self._lease, self._leased_at_s = lease, asked_at_s
        self.lease_expires_at = _decode.always(response.lease_expires_at)
        return self.lease_expires_at
