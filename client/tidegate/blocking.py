"""The client without asyncio: the same names, safe to use from several threads."""

import uuid
import weakref
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Self

import grpc

from tidegate import _channel, _convert, _delivery, models
from tidegate._threaded import Batch, Subscription
from tidegate._timer import Timer
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2

__all__ = ["Batch", "Client", "Subscription"]


class Client:
    """Talks to one Tidegate server, or to one of several behind a name.

    `target` is "host:port", "unix:/path" or another of gRPC's names. `token` goes with every call.
    With `credentials` the connection uses TLS. An own `channel` is used as it is and not closed.

    The connection is made by the first call and mends itself. Any thread may call.
    Every call raises an error of `tidegate.errors`, and has a `timeout` whose default is the
    deadline that the contract advises. Calls are repeated by themselves when the server cannot be
    reached, which changes nothing twice.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        *,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.Channel | None = None,
    ):
        self._connection = _channel.Connection(
            target, token=token, credentials=credentials, channel=channel
        )
        self._timer = Timer()
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes subscriptions, connection and threads. Calls after that raise TidegateError."""
        for subscription in list(self._subscriptions):
            subscription.close()
        self._timer.close()
        self._connection.close()

    def add(
        self,
        instance: str,
        conversation: str,
        payload: str | bytes,
        *,
        message_id: str | None = None,
        content_type: str | None = None,
        attributes: Mapping[str, str] | None = None,
        occurred_at: datetime | None = None,
        policy: models.WindowPolicy | None = None,
        flush: bool = False,
        timeout: timedelta | None = None,
    ) -> models.Added:
        """Adds one message to the conversation's buffer; it will be in exactly one batch.

        Give the chat provider's `message_id`, and a webhook that comes twice adds once; without
        one it gets an id of its own. `policy` counts if this message opens the window. `flush`
        closes the window with this message. Look at `fallback_to_immediate` of the answer if the
        server's fallback policy is "immediate". Raises InvalidArgument, ResourceExhausted.
        """
        message = models.Message(
            id=message_id or uuid.uuid4().hex,
            payload=payload,
            content_type=content_type or "",
            attributes=attributes or {},
            occurred_at=occurred_at,
        )
        request = _convert.add_request(instance, conversation, message, policy=policy, flush=flush)
        rpc = self._connection.buffer.AddMessage
        return _convert.added(self._connection.call(rpc, request, timeout))

    def status(
        self, instance: str, conversation: str, *, timeout: timedelta | None = None
    ) -> models.Status:
        """Where a conversation stands. Raises NotFound if nothing is known of it."""
        request = buffer_pb2.GetStatusRequest(
            conversation=_convert.conversation_ref(instance, conversation)
        )
        rpc = self._connection.buffer.GetStatus
        return _convert.status(self._connection.call(rpc, request, timeout))

    def flush(
        self, instance: str, conversation: str, *, timeout: timedelta | None = None
    ) -> models.Flushed:
        """Closes the conversation's window now. Without an open window it changes nothing."""
        request = buffer_pb2.FlushRequest(
            conversation=_convert.conversation_ref(instance, conversation)
        )
        rpc = self._connection.buffer.Flush
        return _convert.flushed(self._connection.call(rpc, request, timeout))

    def subscribe(
        self,
        *instances: str,
        subscriber_id: str | None = None,
        max_in_flight: int = 8,
        lease: timedelta = timedelta(seconds=30),
    ) -> Subscription:
        """A stream of batches of these instances; of all that the token allows if none is named.

        `subscriber_id` names this client for people, by default host and process.
        `max_in_flight` is how many unsettled batches are held at a time, 1 to 1000; `lease` is how
        long one is held unless extended, 1 s to 10 min.
        """
        request = _convert.subscribe_request(
            subscriber_id or _delivery.default_subscriber_id(),
            instances,
            max_in_flight=max_in_flight,
            lease=lease,
        )
        subscription = Subscription(self._connection, self._timer, request)
        self._subscriptions.add(subscription)
        return subscription

    def pull(
        self,
        *instances: str,
        subscriber_id: str | None = None,
        max_batches: int = 1,
        wait: timedelta = timedelta(seconds=20),
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta | None = None,
    ) -> list[Batch]:
        """Batches that are ready, waiting for the first one; none when `wait` has passed.

        Instances, `subscriber_id` and `lease` as with `subscribe`. `max_batches` is 1 to 100,
        `wait` at most 60 s. Raises InvalidArgument, ResourceExhausted.
        """
        request = _convert.pull_request(
            subscriber_id or _delivery.default_subscriber_id(),
            instances,
            max_batches=max_batches,
            wait=wait,
            lease=lease,
        )
        timeout = wait + _channel.PULL_MARGIN if timeout is None else timeout
        connection = self._connection
        response = connection.call(connection.delivery.Pull, request, timeout)
        return [Batch(connection, self._timer, batch, lease) for batch in response.batches]

    def server_info(self, *, timeout: timedelta | None = None) -> models.ServerInfo:
        """Version, limits and capabilities of the server."""
        request = admin_pb2.GetServerInfoRequest()
        rpc = self._connection.admin.GetServerInfo
        return _convert.server_info(self._connection.call(rpc, request, timeout))

    def stats(
        self, instance: str | None = None, *, timeout: timedelta | None = None
    ) -> models.Stats:
        """Gauges and counters as of now, of one instance or of all."""
        request = admin_pb2.GetStatsRequest(instance=instance or "")
        rpc = self._connection.admin.GetStats
        return _convert.stats(self._connection.call(rpc, request, timeout))

    def dead_letters(
        self, instance: str | None = None, *, timeout: timedelta | None = None
    ) -> Iterator[models.BatchInfo]:
        """All dead letters, newest first, of one instance or of all. `timeout` is for one page."""
        request = admin_pb2.ListDeadLettersRequest(instance=instance or "")
        while True:
            rpc = self._connection.admin.ListDeadLetters
            response = self._connection.call(rpc, request, timeout)
            for batch in response.batches:
                yield _convert.batch_info(batch)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def batch(self, batch_id: str, *, timeout: timedelta | None = None) -> models.BatchDetails:
        """One batch with its messages and attempts. Raises NotFound."""
        request = admin_pb2.GetBatchRequest(batch_id=batch_id)
        rpc = self._connection.admin.GetBatch
        return _convert.batch_details(self._connection.call(rpc, request, timeout))
