"""The client without asyncio: the same names, safe to use from several threads."""

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import grpc

from tidegate import _channel, _decode, _delivery, _encode, _many, _watch, models
from tidegate._threaded import Subscription
from tidegate._threaded_batch import Batch
from tidegate._timer import Timer
from tidegate.errors import TidegateError
from tidegate.v1 import admin_service_pb2 as admin_pb2
from tidegate.v1 import buffer_service_pb2 as buffer_pb2

__all__ = ["Batch", "Client", "Subscription"]


class Client:
    """Talks to one Tidegate server, or to one of several behind a name.

    `target` is "host:port", "unix:/path" or another of gRPC's names. `token` goes with every call;
    a function is asked for it each time, so that it may be replaced. Beyond this machine it wants
    TLS, or `insecure_token`.

    With `ca_file`, certificates that may sign the server's, the connection uses TLS; `cert_file`
    and `key_file` are for a server that wants a certificate of its clients. All are PEM.
    `credentials` are gRPC's, for any other TLS. An own `channel` is used as it is and not closed.

    The connection is made by the first call and mends itself. Any thread may call.
    Every call raises an error of `tidegate.errors`, and has a `timeout` whose default is the
    deadline that the contract advises. Calls are repeated by themselves when the server cannot be
    reached, which changes nothing twice.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        *,
        token: str | Callable[[], str] | None = None,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        insecure_token: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.Channel | None = None,
    ):
        self._connection = _channel.Connection(
            target,
            token=token,
            credentials=_channel.credentials_of(
                credentials, ca_file=ca_file, cert_file=cert_file, key_file=key_file
            ),
            channel=channel,
            insecure_token=insecure_token,
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

        Each is a call of its own, also from several threads; `add_many` is the fast way for many.
        One whose time is over may still be added: repeat it with the same `message_id`.
        """
        request = _encode.add_request(
            instance,
            conversation,
            payload,
            message_id=message_id,
            content_type=content_type,
            attributes=attributes,
            occurred_at=occurred_at,
            policy=policy,
            flush=flush,
        )
        rpc = self._connection.buffer.AddMessage
        return _decode.added(self._connection.call(rpc, request, timeout))

    def add_many(
        self, messages: Iterable[models.NewMessage], *, timeout: timedelta | None = None
    ) -> list[models.Added | TidegateError]:
        """Adds several messages, of any conversations, with as few calls as possible.

        The results are in the order of the messages; each is what `add` would have answered or
        raised. Messages of one conversation are added in that order. Nothing that failed is tried
        again: look at each result, and give a `message_id` to what you mean to repeat.

        There is a call for every 512 messages or 1 MiB, one after the other; `timeout` is for each.
        If the first fails as a whole its error is raised. If a later one does, its messages and
        those after it have that error.
        """
        many = _many.Many(messages)
        rpc = self._connection.buffer.AddMessages
        for part in many.parts:
            try:
                many.heed(part, self._connection.call(rpc, part.request, timeout))
            except TidegateError as error:
                many.give_up(part, error)
                break
        return many.results

    def status(
        self, instance: str, conversation: str, *, timeout: timedelta | None = None
    ) -> models.Status:
        """Where a conversation stands. Raises NotFound if nothing is known of it."""
        request = buffer_pb2.GetStatusRequest(
            conversation=_encode.conversation_ref(instance, conversation)
        )
        rpc = self._connection.buffer.GetStatus
        return _decode.status(self._connection.call(rpc, request, timeout))

    def flush(
        self, instance: str, conversation: str, *, timeout: timedelta | None = None
    ) -> models.Flushed:
        """Closes the conversation's window now. Without an open window it changes nothing."""
        request = buffer_pb2.FlushRequest(
            conversation=_encode.conversation_ref(instance, conversation)
        )
        rpc = self._connection.buffer.Flush
        return _decode.flushed(self._connection.call(rpc, request, timeout))

    def hold(
        self,
        instance: str,
        conversation: str,
        hold_for: timedelta = timedelta(seconds=5),
        *,
        timeout: timedelta | None = None,
    ) -> models.Held:
        """Keeps the conversation's window open for at least that long from now, at most 60 s.

        For a user who is typing, recording or uploading. Never past the policy's `max_wait`, and
        never shortens the window. Without an open window it changes nothing.
        """
        request = _encode.hold_request(instance, conversation, hold_for)
        rpc = self._connection.buffer.HoldWindow
        return _decode.held(self._connection.call(rpc, request, timeout))

    def amend(
        self,
        instance: str,
        conversation: str,
        message_id: str,
        payload: str | bytes,
        *,
        content_type: str | None = None,
        attributes: Mapping[str, str] | None = None,
        occurred_at: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> models.BufferInfo:
        """Replaces a message that is still in the buffer: the user edited it.

        All that is given here takes the place of what was there; place and arrival time stay.
        Returns the buffer after the call. Raises NotFound, and AlreadySealed for a message that is
        in a batch already.
        """
        request = _encode.amend_request(
            instance,
            conversation,
            message_id,
            payload,
            content_type=content_type,
            attributes=attributes,
            occurred_at=occurred_at,
        )
        rpc = self._connection.buffer.AmendMessage
        return _decode.buffer_info((self._connection.call(rpc, request, timeout)).buffer)

    def remove(
        self,
        instance: str,
        conversation: str,
        message_id: str,
        *,
        timeout: timedelta | None = None,
    ) -> models.BufferInfo | None:
        """Takes a message out of the buffer: the user deleted it.

        Returns the buffer after the call, None if that was its last message: the window is closed
        then, without a batch. Raises NotFound, AlreadySealed.
        """
        request = _encode.remove_request(instance, conversation, message_id)
        rpc = self._connection.buffer.RemoveMessage
        return _decode.open_buffer(self._connection.call(rpc, request, timeout))

    def discard(self, instance: str, conversation: str, *, timeout: timedelta | None = None) -> int:
        """Drops the open buffer without delivering it; returns how many messages that were.

        For a person who takes the conversation over. A batch in progress is not touched.
        """
        request = buffer_pb2.DiscardRequest(
            conversation=_encode.conversation_ref(instance, conversation)
        )
        rpc = self._connection.buffer.Discard
        return (self._connection.call(rpc, request, timeout)).discarded_count

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
        request = _encode.subscribe_request(
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
        request = _encode.pull_request(
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
        return _decode.server_info(self._connection.call(rpc, request, timeout))

    def stats(
        self, instance: str | None = None, *, timeout: timedelta | None = None
    ) -> models.Stats:
        """Gauges and counters as of now, of one instance or of all."""
        request = admin_pb2.GetStatsRequest(instance=instance or "")
        rpc = self._connection.admin.GetStats
        return _decode.stats(self._connection.call(rpc, request, timeout))

    def conversations(
        self, instance: str | None = None, *, timeout: timedelta | None = None
    ) -> Iterator[models.ConversationInfo]:
        """All conversations with an open buffer or a batch in progress, soonest first.

        Of one instance or of all. `timeout` is for one page.
        """
        request = admin_pb2.ListConversationsRequest(instance=instance or "")
        while True:
            rpc = self._connection.admin.ListConversations
            response = self._connection.call(rpc, request, timeout)
            for conversation in response.conversations:
                yield _decode.conversation_info(conversation)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def dead_letters(
        self, instance: str | None = None, *, timeout: timedelta | None = None
    ) -> Iterator[models.BatchInfo]:
        """All dead letters, newest first, of one instance or of all. `timeout` is for one page."""
        request = admin_pb2.ListDeadLettersRequest(instance=instance or "")
        while True:
            rpc = self._connection.admin.ListDeadLetters
            response = self._connection.call(rpc, request, timeout)
            for batch in response.batches:
                yield _decode.batch_info(batch)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def batch(self, batch_id: str, *, timeout: timedelta | None = None) -> models.BatchDetails:
        """One batch with its messages and attempts. Raises NotFound."""
        request = admin_pb2.GetBatchRequest(batch_id=batch_id)
        rpc = self._connection.admin.GetBatch
        return _decode.batch_details(self._connection.call(rpc, request, timeout))

    def track(
        self,
        instance: str,
        conversation: str,
        message_id: str,
        *,
        timeout: timedelta | None = None,
    ) -> models.Tracked:
        """Follows one message: when it came, into which batch it went, each attempt.

        Raises NotFound for a message that never came, or has been forgotten.
        """
        request = _encode.track_request(instance, conversation, message_id)
        rpc = self._connection.admin.TrackMessage
        return _decode.tracked(self._connection.call(rpc, request, timeout))

    def requeue(self, *batch_ids: str, timeout: timedelta | None = None) -> dict[str, bool]:
        """Puts the messages of dead letters back into their conversations' buffers, due at once.

        Says of each id whether this call did it; False: it is no dead letter any more. There is a
        call for every 100 ids, and `timeout` is for each.
        """
        done: dict[str, bool] = {}
        rpc = self._connection.admin.RequeueDeadLetters
        for ids in _many.id_groups(batch_ids):
            request = admin_pb2.RequeueDeadLettersRequest(batch_ids=ids)
            response = self._connection.call(rpc, request, timeout)
            done |= _decode.applied(response.results)
        return done

    def delete_dead_letters(
        self, *batch_ids: str, timeout: timedelta | None = None
    ) -> dict[str, bool]:
        """Deletes dead letters for good. Answers and `timeout` as with `requeue`."""
        done: dict[str, bool] = {}
        rpc = self._connection.admin.DeleteDeadLetters
        for ids in _many.id_groups(batch_ids):
            request = admin_pb2.DeleteDeadLettersRequest(batch_ids=ids)
            response = self._connection.call(rpc, request, timeout)
            done |= _decode.applied(response.results)
        return done

    def erase(self, instance: str, conversation: str, *, timeout: timedelta | None = None) -> int:
        """Forgets all that is stored of a conversation, dead letters and kept batches included.

        Returns how many messages that were.
        """
        request = admin_pb2.EraseConversationRequest(
            conversation=_encode.conversation_ref(instance, conversation)
        )
        rpc = self._connection.admin.EraseConversation
        return (self._connection.call(rpc, request, timeout)).erased_messages

    def watch(self, instance: str | None = None) -> Generator[models.Event]:
        """What happens to messages and batches from now on, of one instance or of all.

        A live tail, best effort: it watches again when the server goes away, and what happened
        meanwhile is not told; `dropped` of an event counts what a slow reader missed. It ends with
        an error when the server refuses, and never of its own accord. Events carry no payloads.
        """
        return _watch.watch_blocking(
            self._connection, admin_pb2.WatchEventsRequest(instance=instance or "")
        )
