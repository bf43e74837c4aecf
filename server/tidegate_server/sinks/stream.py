"""Subscribers: who listens to what, how much room they have, and whose turn it is.

A subscriber has `max_in_flight` credits. One is reserved before a claim, turns into a batch in
flight with the answer, and comes back when the batch is settled or its lease is over.
"""

import asyncio
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tidegate_server.core.model import Batch, BufferInfo, Conversation, DeliveryChannel
from tidegate_server.errors import Draining, TooManySubscribers


@dataclass(frozen=True, slots=True)
class Closing:
    """No more batches will come; the server ends the stream at `closes_at_ms`."""

    reason: str
    closes_at_ms: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """Newer messages arrived in the conversation of a batch in flight, and gather in `buffer`."""

    batch_id: str
    conversation: Conversation
    buffer: BufferInfo


class Ring:
    """The subscribers of one instance. Those with room are in turn; full ones drop out lazily."""

    __slots__ = ("listeners", "roomy")

    def __init__(self) -> None:
        self.listeners = 0
        self.roomy: OrderedDict[Subscriber, None] = OrderedDict()

    def head(self) -> "Subscriber | None":
        """The next one with room. A full one leaves, and comes back with its next credit."""
        while self.roomy:
            subscriber = next(iter(self.roomy))
            if subscriber.room > 0:
                return subscriber
            del self.roomy[subscriber]
            subscriber.left.append(self)
        return None


class Subscriber:
    """One Subscribe stream, or one Pull in progress. No `instances` means all of them."""

    def __init__(
        self,
        subscriber_id: str,
        *,
        instances: frozenset[str],
        max_in_flight: int,
        lease_ms: int,
        channel: DeliveryChannel,
    ):
        self.subscription_id = secrets.token_hex(8)
        self.subscriber_id = subscriber_id
        self.instances = instances
        self.max_in_flight = max_in_flight
        self.lease_ms = lease_ms
        self.channel = channel
        self.turn = 0
        self.left: list[Ring] = []
        self.held: set[str] = set()
        self._reserved = 0
        self._events: OrderedDict[tuple[type, str], Batch | Superseded] = OrderedDict()
        self._closing: Closing | None = None
        self._news = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Batches handed to it and not settled."""
        return len(self.held)

    @property
    def pending(self) -> int:
        """Claims under way for it."""
        return self._reserved

    @property
    def room(self) -> int:
        """Batches that may be claimed for it now; never more once it is closing."""
        if self._closing:
            return 0
        return self.max_in_flight - self._reserved - len(self.held)

    @property
    def closing(self) -> bool:
        """Whether no more batches will come."""
        return self._closing is not None

    async def next(self, timeout: float | None) -> Batch | Superseded | Closing | None:
        """The next event, or None when `timeout` seconds have passed. For one caller at a time.

        Only a stream is told of superseded batches, after the batch itself. A closing subscriber
        answers `Closing` from then on. A cancelled call loses no batch.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._events and not self._closing:
                    await self._news.wait()
        except TimeoutError:
            return None
        if not self._events:
            return self._closing
        _, event = self._events.popitem(last=False)
        self._tidy()
        return event

    def reserve(self) -> None:
        """Set one credit aside for a claim."""
        self._reserved += 1

    def free(self) -> None:
        """Give up a credit that was reserved."""
        self._reserved -= 1

    def put(self, batch: Batch) -> None:
        """Turn a reserved credit into a batch that `next` will answer."""
        self._reserved -= 1
        self.held.add(batch.info.batch_id)
        self._events[Batch, batch.info.batch_id] = batch
        self._news.set()

    def tell(self, superseded: Superseded) -> bool:
        """Have `next` answer this of a batch that it holds. False: it takes no such events."""
        if self._closing or self.channel is not DeliveryChannel.STREAM:
            return False
        self._events[Superseded, superseded.batch_id] = superseded
        self._news.set()
        return True

    def drop(self, batch_id: str) -> None:
        """Forget a batch that needs no settling here any more, also one that was not taken yet."""
        self.held.discard(batch_id)
        self._events.pop((Batch, batch_id), None)
        self._events.pop((Superseded, batch_id), None)
        self._tidy()

    def shut(self, closing: Closing) -> list[Batch]:
        """Take no more batches. Returns those that were never taken by `next`."""
        self._closing = closing
        untaken = [event for event in self._events.values() if isinstance(event, Batch)]
        self.held.difference_update(batch.info.batch_id for batch in untaken)
        self._events.clear()
        self._news.set()
        return untaken

    def _tidy(self) -> None:
        if not self._events and not self._closing:
            self._news.clear()


class Subscribers:
    """The subscribers of this server. `on_room` is called when one has a credit again.

    `guests` are the streams that share their limit and take no batches.
    """

    def __init__(self, *, limit: int):
        self.on_room: Callable[[Subscriber], None] = lambda _: None
        self.guests = 0
        self._limit = limit
        self._open: dict[Subscriber, None] = {}
        self._rings: OrderedDict[str, Ring] = OrderedDict()
        self._everything = Ring()
        self._holders: dict[str, Subscriber] = {}
        self._turns = itertools.count(1)
        self._closing: Closing | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self,
        subscriber_id: str,
        *,
        instances: frozenset[str],
        max_in_flight: int,
        lease_ms: int,
        channel: DeliveryChannel,
    ) -> Subscriber:
        """A new subscriber with all its credits.

        Raises:
            Draining: The server is shutting down.
            TooManySubscribers: It has as many as it may have.
        """
        self.admit()
        subscriber = Subscriber(
            subscriber_id,
            instances=instances,
            max_in_flight=max_in_flight,
            lease_ms=lease_ms,
            channel=channel,
        )
        self._open[subscriber] = None
        self._empty.clear()
        for instance in instances:
            self._rings.setdefault(instance, Ring())
        for ring in self._rings_of(subscriber):
            ring.listeners += 1
            ring.roomy[subscriber] = None
        return subscriber

    def admit(self) -> None:
        """Look whether one more may come in.

        Raises:
            Draining: The server is shutting down.
            TooManySubscribers: It has as many as it may have.
        """
        if self._closing:
            raise Draining
        if len(self._open) + self.guests >= self._limit:
            raise TooManySubscribers(f"this server has {self._limit} subscribers, its limit")

    def close(self, subscriber: Subscriber) -> list[Batch]:
        """Forget a subscriber. Returns the batches that it never took, for the caller to release.

        Those it took stay leased and can still be settled.
        """
        if subscriber not in self._open:
            return []
        del self._open[subscriber]
        for ring in self._rings_of(subscriber):
            ring.listeners -= 1
            ring.roomy.pop(subscriber, None)
        for instance in subscriber.instances:
            if not self._rings[instance].listeners:
                del self._rings[instance]
        for batch_id in subscriber.held:
            del self._holders[batch_id]
        if not self._open:
            self._empty.set()
        return subscriber.shut(Closing("the subscription has ended", 0))

    def drain(self, closing: Closing) -> list[Batch]:
        """Let nobody in, and have all subscribers close. Returns the batches never taken."""
        self._closing = closing
        untaken = [batch for subscriber in self._open for batch in subscriber.shut(closing)]
        for batch in untaken:
            self._holders.pop(batch.info.batch_id, None)
        return untaken

    async def gone(self) -> None:
        """Wait until the last subscriber is closed."""
        await self._empty.wait()

    def listeners(self, instance: str | None) -> int:
        """Subscribers that named the instance; None: those that listen to everything."""
        ring = self._everything if instance is None else self._rings.get(instance)
        return ring.listeners if ring else 0

    def listens(self, instance: str) -> bool:
        """Whether somebody here takes batches of the instance, with room or without."""
        return not self._closing and bool(self._everything.listeners or instance in self._rings)

    def rotate(self, count: int) -> list[str]:
        """The next `count` of the named instances, each in its turn."""
        named = list(itertools.islice(self._rings, count))
        for instance in named:
            self._rings.move_to_end(instance)
        return named

    def room(self, instance: str) -> bool:
        """Whether a batch of the instance could be handed out now."""
        ring = self._rings.get(instance)
        return bool((ring and ring.head()) or self._everything.head())

    def pick(self, instance: str) -> Subscriber | None:
        """The subscriber whose turn it is among those with room. None: nobody has any."""
        ring = self._rings.get(instance)
        named, other = ring.head() if ring else None, self._everything.head()
        if ring and named and (other is None or named.turn <= other.turn):
            ring.roomy.move_to_end(named)
            chosen = named
        elif other:
            self._everything.roomy.move_to_end(other)
            chosen = other
        else:
            return None
        return chosen

    def reserve(self, subscriber: Subscriber) -> None:
        """Set aside a credit of a subscriber that has room."""
        subscriber.turn = next(self._turns)
        subscriber.reserve()

    def free(self, subscriber: Subscriber) -> None:
        """Give a reserved credit back."""
        subscriber.free()
        self._returned(subscriber)

    def hand(self, subscriber: Subscriber, batch: Batch) -> bool:
        """Give a batch to the subscriber that a credit was reserved of. False: it is gone."""
        if subscriber not in self._open or subscriber.closing:
            return False
        self.settled(batch.info.batch_id)
        self._holders[batch.info.batch_id] = subscriber
        subscriber.put(batch)
        return True

    def holds(self, batch_id: str) -> bool:
        """Whether a subscriber here has the batch and has not settled it."""
        return batch_id in self._holders

    def tell(self, superseded: Superseded) -> bool:
        """Tell the stream that holds the batch. False: none does."""
        holder = self._holders.get(superseded.batch_id)
        return holder is not None and holder.tell(superseded)

    def settled(self, batch_id: str) -> None:
        """Give the credit of a batch back: it is settled, or its lease is over."""
        if subscriber := self._holders.pop(batch_id, None):
            subscriber.drop(batch_id)
            self._returned(subscriber)

    def _returned(self, subscriber: Subscriber) -> None:
        if subscriber not in self._open or subscriber.room <= 0:
            return
        for ring in subscriber.left:
            ring.roomy[subscriber] = None
        subscriber.left.clear()
        self.on_room(subscriber)

    def _rings_of(self, subscriber: Subscriber) -> list[Ring]:
        if not subscriber.instances:
            return [self._everything]
        return [self._rings[instance] for instance in subscriber.instances]
