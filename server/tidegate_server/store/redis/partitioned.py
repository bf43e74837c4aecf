"""The store in several partitions, each with a pipeline of its own, as a Cluster needs it.

A conversation has its partition for good, so whatever is one step stays one step there. What is
asked of all partitions is asked of them at once, and merged.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from heapq import merge
from itertools import islice, zip_longest
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError

from tidegate_server.core.model import (
    BatchInfo,
    Conversation,
    DeliveryChannel,
    NackAction,
    NewMessage,
)
from tidegate_server.errors import NotFound, StoreUnavailable, TidegateError
from tidegate_server.store.base import (
    AddResult,
    BatchDetails,
    Changed,
    Claimed,
    Due,
    Erased,
    Extended,
    Flushed,
    Held,
    Horizon,
    Listed,
    Requeued,
    Settled,
    Stats,
    Status,
    Tracked,
)
from tidegate_server.store.dial import Dialer
from tidegate_server.store.keys import cid_of, conversation_of, home_of, partition_of
from tidegate_server.store.redis.archive import Archive, Place
from tidegate_server.store.redis.buffers import Buffers
from tidegate_server.store.redis.connected import Connected
from tidegate_server.store.redis.deliveries import Deliveries
from tidegate_server.store.redis.runner import Runner

_FEWEST_DUE = 16

T = TypeVar("T")


class RedisPartition(Deliveries, Buffers, Archive):
    """One of several partitions."""

    def __init__(self, runner: Runner):
        self.runner = runner


class Anywhere:
    """Opens connections to the node of whichever partition can be had: channels are one for all."""

    def __init__(self, dialers: Sequence[Dialer]):
        self._dialers = dialers

    async def open(self) -> AbstractConnection:
        """As `Dialer` says."""
        failure: Exception | None = None
        for dialer in random.sample(self._dialers, len(self._dialers)):
            try:
                return await dialer.open()
            except (RedisError, OSError) as error:
                failure = error
        raise failure or StoreConnectionError("there is no partition")


class PartitionedStore(Connected):
    """The store of several partitions.

    A partition that is away makes nobody wait who does not need it: what is only a hint (`horizon`,
    `due`) comes from the others, and no conversation of it is claimed till it is back.
    """

    def __init__(self, dialers: Sequence[Dialer], runners: Sequence[Runner]):
        super().__init__(Anywhere(dialers), runners)
        self.parts = [RedisPartition(runner) for runner in runners]

    def partition_of(self, conversation: Conversation) -> int:
        """As the base says."""
        return home_of(conversation, self.partitions)

    def _of(self, conversation: Conversation) -> RedisPartition:
        return self.parts[self.partition_of(conversation)]

    async def add(self, messages: Sequence[NewMessage]) -> list[AddResult]:
        """As the base says."""
        places: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            places.setdefault(self.partition_of(message.conversation), []).append(place)
        answers = await _answers(
            self.parts[number].add([messages[place] for place in mine])
            for number, mine in places.items()
        )
        if any(isinstance(answer, BaseException) for answer in answers):
            raise _not_all_added(answers)
        added = dict[int, AddResult]()
        for mine, answer in zip(places.values(), _good(answers), strict=True):
            added.update(zip(mine, answer, strict=True))
        return [added[place] for place in range(len(messages))]

    async def claim(
        self,
        conversation: Conversation,
        *,
        token: str,
        lease_ms: int,
        subscriber_id: str,
        channel: DeliveryChannel,
    ) -> Claimed:
        """As the base says. Refused at once while the partition is away."""
        part = self._of(conversation)
        if part.runner.pipeline.away:
            raise StoreUnavailable("this part of the store cannot be reached")
        return await part.claim(
            conversation,
            token=token,
            lease_ms=lease_ms,
            subscriber_id=subscriber_id,
            channel=channel,
        )

    async def ack(self, batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
        """As the base says."""
        part = await self._holder(batch_id)
        return await part.ack(batch_id, token, only_if_current=only_if_current)

    async def nack(
        self,
        batch_id: str,
        token: str,
        action: NackAction,
        *,
        retry_delay_ms: int = 0,
        reason: str = "NACKED",
        message: str = "",
    ) -> Settled:
        """As the base says."""
        part = await self._holder(batch_id)
        return await part.nack(
            batch_id,
            token,
            action,
            retry_delay_ms=retry_delay_ms,
            reason=reason,
            message=message,
        )

    async def extend(self, batch_id: str, token: str, lease_ms: int) -> Extended:
        """As the base says."""
        return await (await self._holder(batch_id)).extend(batch_id, token, lease_ms)

    async def expire(self, conversation: Conversation) -> Settled | None:
        """As the base says."""
        return await self._of(conversation).expire(conversation)

    async def flush(self, conversation: Conversation) -> Flushed:
        """As the base says."""
        return await self._of(conversation).flush(conversation)

    async def hold(self, conversation: Conversation, hold_ms: int) -> Held:
        """As the base says."""
        return await self._of(conversation).hold(conversation, hold_ms)

    async def amend(
        self, conversation: Conversation, message_id: str, *, body: bytes, payload_bytes: int
    ) -> Changed:
        """As the base says."""
        part = self._of(conversation)
        return await part.amend(conversation, message_id, body=body, payload_bytes=payload_bytes)

    async def remove(self, conversation: Conversation, message_id: str) -> Changed:
        """As the base says."""
        return await self._of(conversation).remove(conversation, message_id)

    async def discard(self, conversation: Conversation) -> int:
        """As the base says."""
        return await self._of(conversation).discard(conversation)

    async def track(self, conversation: Conversation, message_id: str) -> Tracked:
        """As the base says."""
        return await self._of(conversation).track(conversation, message_id)

    async def status(self, conversation: Conversation) -> Status:
        """As the base says."""
        return await self._of(conversation).status(conversation)

    async def erase(self, conversation: Conversation) -> Erased:
        """As the base says."""
        return await self._of(conversation).erase(conversation)

    async def conversations(
        self, instance: str | None, *, limit: int, after: Place | None = None
    ) -> list[Listed]:
        """As the base says."""
        found = await self._all(lambda part: part.places(instance, limit=limit, after=after))
        places = list(islice(merge(*found), limit))
        mine: dict[int, list[Place]] = {}
        for place in places:
            mine.setdefault(self.partition_of(conversation_of(place[1])), []).append(place)
        listed = _good(
            await _answers(self.parts[number].listed(some) for number, some in mine.items())
        )
        return list(merge(*listed, key=_listed_place))

    async def horizon(self, *, limit: int) -> Horizon:
        """As the base says, of the partitions that answer."""
        asked = await _answers(part.horizon(limit=limit) for part in self.parts)
        found = _some(asked)
        times = [(n, one.at_ms) for n, one in enumerate(asked) if isinstance(one, Horizon)]
        nexts = [one.next_ms for one in found if one.next_ms is not None]
        return Horizon(
            found[0].at_ms,
            tuple(islice(_in_turn([one.instances for one in found]), limit)),
            tuple(islice(_in_turn([one.expired for one in found]), limit)),
            min(nexts, default=None),
            tuple(times),
        )

    async def due(self, instance: str, *, limit: int) -> list[Due]:
        """As the base says, of the partitions that answer.

        Each is asked for little more than its share at first, and those again that had more.
        """
        share = min(limit, max(_FEWEST_DUE, 4 * limit // self.partitions))
        asked = await _answers(part.due(instance, limit=share) for part in self.parts)
        _some(asked)
        found = [[] if isinstance(one, BaseException) else one for one in asked]
        soonest = list(islice(merge(*found, key=_due_place), limit))
        cut = [
            number
            for number, mine in enumerate(found)
            if share < limit
            and len(mine) == share
            and (len(soonest) < limit or _due_place(mine[-1]) < _due_place(soonest[-1]))
        ]
        again = await _answers(self.parts[number].due(instance, limit=limit) for number in cut)
        for number, more in zip(cut, again, strict=True):
            found[number] = found[number] if isinstance(more, BaseException) else more
        return list(islice(merge(*found, key=_due_place), limit))

    async def stats(self, instance: str | None = None) -> Stats:
        """As the base says."""
        return stats_of(await self._all(lambda part: part.stats(instance)))

    async def batch(self, batch_id: str) -> BatchDetails:
        """As the base says."""
        return await (await self._holder(batch_id)).batch(batch_id)

    async def dead_letters(
        self, instance: str | None, *, limit: int, before: Place | None = None
    ) -> list[BatchInfo]:
        """As the base says."""
        found = await self._all(
            lambda part: part.dead_letters(instance, limit=limit, before=before)
        )
        return list(islice(merge(*found, key=_letter_place, reverse=True), limit))

    async def find(self, batch_id: str) -> Conversation:
        """As the base says."""
        return await (await self._holder(batch_id)).find(batch_id)

    async def requeue(self, batch_id: str) -> Requeued:
        """As the base says."""
        try:
            return await (await self._holder(batch_id)).requeue(batch_id)
        except NotFound:
            return Requeued(False)

    async def delete(self, batch_id: str) -> bool:
        """As the base says."""
        try:
            return await (await self._holder(batch_id)).delete(batch_id)
        except NotFound:
            return False

    async def reconcile(self, *, limit: int) -> int:
        """As the base says; of each partition that answers as many."""
        return sum(_some(await _answers(part.reconcile(limit=limit) for part in self.parts)))

    @property
    def reconciled(self) -> int:
        """As the base says; the slowest partition counts."""
        return min(part.reconciled for part in self.parts)

    async def _holder(self, batch_id: str) -> RedisPartition:
        """The partition that has the batch: the one that its id names, unless the store has moved.

        Raises:
            NotFound: No partition has it.
        """
        number = partition_of(batch_id)
        if number is None:
            raise NotFound("batch", batch_id)
        home = self.parts[number % self.partitions]
        try:
            await home.runner.find(batch_id)
        except NotFound:
            others = [part for part in self.parts if part is not home]
            found = await _answers(part.runner.find(batch_id) for part in others)
            for part, one in zip(others, found, strict=True):
                if isinstance(one, Conversation):
                    return part
            raise _worst([one for one in found if isinstance(one, BaseException)]) from None
        return home

    async def _all(self, ask: Callable[[RedisPartition], Coroutine[Any, Any, T]]) -> list[T]:
        """The answers of all partitions; the first error if there is one."""
        return _good(await _answers(ask(part) for part in self.parts))


def stats_of(parts: Sequence[Stats]) -> Stats:
    """The gauges of all partitions together."""
    return Stats(
        open_buffers=sum(part.open_buffers for part in parts),
        buffered_messages=sum(part.buffered_messages for part in parts),
        delivering_batches=sum(part.delivering_batches for part in parts),
        retrying_batches=sum(part.retrying_batches for part in parts),
        dead_letters=sum(part.dead_letters for part in parts),
        oldest_due_age_ms=max(part.oldest_due_age_ms for part in parts),
    )


async def _answers(calls: Iterator[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    """What each call gives, or its error."""
    return await asyncio.gather(*calls, return_exceptions=True)


def _good(answers: Sequence[T | BaseException]) -> list[T]:
    """The answers, if none is an error."""
    good: list[T] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        good.append(answer)
    return good


def _some(answers: Sequence[T | BaseException]) -> list[T]:
    """The answers of the partitions that are not away; the error if all of them are."""
    away = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
    if len(away) == len(answers):
        raise away[0]
    return _good([answer for answer in answers if not isinstance(answer, StoreUnavailable)])


def _not_all_added(answers: Sequence[list[AddResult] | BaseException]) -> BaseException:
    """The error of messages of several partitions: if some were taken, nobody is told none was."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    bugs = [error for error in errors if not isinstance(error, TidegateError)]
    unsure = [e for e in errors if isinstance(e, StoreUnavailable) and e.maybe_done]
    if bugs or unsure or len(errors) == len(answers):
        return (bugs or unsure or errors)[0]
    return StoreUnavailable(f"some of the messages were taken: {errors[0]}", maybe_done=True)


def _worst(errors: Sequence[BaseException]) -> BaseException:
    """Not known, or not known to be unknown."""
    return next((error for error in errors if not isinstance(error, NotFound)), errors[0])


def _in_turn(lists: Sequence[Sequence[T]]) -> Iterator[T]:
    """The first of each list, then the second of each: each value once."""
    rounds = zip_longest(*([(one,) for one in items] for items in lists))
    return iter(dict.fromkeys(cell[0] for each in rounds for cell in each if cell))


def _due_place(due: Due) -> Place:
    return due.due_ms, cid_of(due.conversation)


def _listed_place(listed: Listed) -> Place:
    return listed.place_ms, cid_of(listed.conversation)


def _letter_place(info: BatchInfo) -> Place:
    return info.settled_at_ms or 0, info.batch_id
