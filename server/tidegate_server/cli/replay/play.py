"""Plays sessions against a server and writes down what happens."""

import asyncio
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import tidegate
from tidegate_server.cli.endings import Failure
from tidegate_server.cli.replay.plan import Session
from tidegate_server.cli.verdict import Delivery, Received, Record, Sent
from tidegate_server.core.model import Conversation, FlushReason, WindowPolicy

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_LOOK_S = 0.1
_LEASE = timedelta(seconds=5)  # settling takes no time, so what a dead server held is soon free
_ROOM = 64
_TAKERS = 16
_MOST_INSTANCES = 100  # of one subscription; more are all of them
# What no repeat will mend.
_HOPELESS = (tidegate.InvalidArgument, tidegate.Unauthenticated, tidegate.PermissionDenied)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to play: sessions and subscriptions at a time, and how much silence is too much."""

    policy: WindowPolicy
    parallel: int
    subscribers: int
    patience_s: float


class _Silence(Exception):
    """Nothing was heard for too long; what is known is all there will be."""


class Player:
    """One performance. `added`, `received` and `batches` grow while `play` runs."""

    def __init__(
        self,
        gate: tidegate.Client,
        sessions: Sequence[Session],
        manner: Manner,
        must_live: Callable[[], None] = lambda: None,
    ):
        self._gate = gate
        self._sessions = sessions
        self._manner = manner
        self._must_live = must_live
        self._policy = to_client(manner.policy)
        self._conversations = {session.conversation for session in sessions}
        self._acknowledged: set[tuple[Conversation, str]] = set()
        self._received: set[tuple[Conversation, str]] = set()
        self._deliveries: list[Delivery] = []
        self._batches: set[str] = set()
        self._trying = 0
        self._unsettled = 0
        self._settled = asyncio.Event()
        self._all_sent = False
        self._heard_s = 0.0

    @property
    def total(self) -> int:
        """Messages of all sessions."""
        return sum(len(session.messages) for session in self._sessions)

    @property
    def added(self) -> int:
        """Messages that the server has acknowledged."""
        return len(self._acknowledged)

    @property
    def received(self) -> int:
        """Messages that have come back in a batch."""
        return len(self._received)

    @property
    def batches(self) -> int:
        """Batches that have come, each counted once."""
        return len(self._batches)

    async def play(self) -> Record:
        """Send everything, take every batch, and say what happened.

        Retries until nothing is heard for the manner's patience.

        Raises:
            Failure: The server is used by others, or has ended for good.
            TidegateError: The server refuses what is sent.
        """
        self._hear()
        try:
            async with asyncio.TaskGroup() as group:
                audience = [group.create_task(self._watch())]
                for number in range(self._manner.subscribers):
                    audience.append(group.create_task(self._listen(number)))
                await self._send_all()
                await self._until_over()
                for task in audience:
                    task.cancel()
        except* _Silence:
            pass
        sent = {session.conversation: session.messages for session in self._sessions}
        return Record(sent, frozenset(self._acknowledged), tuple(self._deliveries))

    async def _send_all(self) -> None:
        sessions = iter(self._sessions)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._manner.parallel, len(self._sessions))):
                group.create_task(self._send_sessions(sessions))
        self._all_sent = True

    async def _send_sessions(self, sessions: Iterator[Session]) -> None:
        for session in sessions:
            began_s = time.monotonic()
            for message, offset_s in zip(session.messages, session.offsets_s, strict=True):
                await asyncio.sleep(max(0, began_s + offset_s - time.monotonic()))
                await self._send(session.conversation, message)
            await asyncio.sleep(self._manner.policy.delay_ms / 1000)  # the next begins after it

    async def _send(self, conversation: Conversation, message: Sent) -> None:
        """Add it, with the same id again and again until the server has it."""
        with self._trial():
            for pause_s in pauses():
                if await self._add(conversation, message):
                    self._acknowledged.add((conversation, message.id))
                    self._hear()
                    return
                await asyncio.sleep(pause_s)

    async def _add(self, conversation: Conversation, message: Sent) -> bool:
        try:
            added = await self._gate.add(
                conversation.instance,
                conversation.name,
                message.text,
                message_id=message.id,
                policy=self._policy,
            )
        except _HOPELESS:
            raise
        except tidegate.TidegateError:
            return False
        return not added.fallback_to_immediate

    @contextmanager
    def _trial(self) -> Generator[None]:
        """While somebody tries, silence counts: from now on, if nobody tried before."""
        if not self._trying:
            self._hear()
        self._trying += 1
        try:
            yield
        finally:
            self._trying -= 1

    async def _listen(self, number: int) -> None:
        instances = sorted({conversation.instance for conversation in self._conversations})
        subscription = self._gate.subscribe(
            *(instances if len(instances) <= _MOST_INSTANCES else ()),
            subscriber_id=f"replay-{number}",
            max_in_flight=_ROOM,
            lease=_LEASE,
        )
        async with subscription, asyncio.TaskGroup() as group:
            for _ in range(_TAKERS):
                group.create_task(self._take(subscription))

    async def _take(self, subscription: tidegate.Subscription) -> None:
        async for batch in subscription:
            self._unsettled += 1
            try:
                await self._write_down(batch)
                await self._acknowledge(batch)
            finally:
                self._unsettled -= 1
                self._settled.set()

    async def _write_down(self, batch: tidegate.Batch) -> None:
        delivery = observed(batch)
        if delivery.conversation not in self._conversations:
            await batch.nack(tidegate.NackAction.RELEASE)
            raise Failure(
                f"batches of other conversations wait in {batch.instance}; take them first, with "
                f"`tidegate subscribe {batch.instance}`, or replay against a server of your own"
            )
        self._hear()
        self._deliveries.append(delivery)
        self._batches.add(delivery.batch_id)
        self._received.update((delivery.conversation, m.id) for m in delivery.messages)

    async def _acknowledge(self, batch: tidegate.Batch) -> None:
        """Until it is settled, or somebody else's: then it comes again."""
        for pause_s in pauses():
            try:
                await batch.ack()
            except (tidegate.LeaseLost, tidegate.NotFound):
                return
            except _HOPELESS:
                raise
            except tidegate.TidegateError:
                await asyncio.sleep(pause_s)
            else:
                self._hear()
                return

    async def _until_over(self) -> None:
        while self._unsettled or not self._acknowledged <= self._received:
            self._settled.clear()
            await self._settled.wait()
        # What is wrongly delivered once more would come now.
        await asyncio.sleep(min(1, self._longest_window_s()))

    async def _watch(self) -> None:
        while True:
            self._must_live()
            if self._trying or self._unsettled:
                limit_s = self._manner.patience_s
            elif self._all_sent:
                limit_s = self._manner.patience_s + self._longest_window_s()
            else:
                limit_s = float("inf")
            if time.monotonic() - self._heard_s > limit_s:
                raise _Silence
            await asyncio.sleep(_LOOK_S)

    def _longest_window_s(self) -> float:
        policy = self._manner.policy
        return max(policy.delay_ms + policy.grace_ms, policy.max_wait_ms) / 1000

    def _hear(self) -> None:
        self._heard_s = time.monotonic()


def pauses() -> Iterator[float]:
    """Seconds between one try and the next: longer and longer, and never in step with others."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def observed(batch: tidegate.Batch) -> Delivery:
    """What the verdict has to know of a batch."""
    return Delivery(
        batch.id,
        Conversation(batch.instance, batch.conversation),
        tuple(
            Received(message.id, message.text, message.sequence, _ms(message.received_at))
            for message in batch.messages
        ),
        due_at_ms=_ms(batch.info.due_at),
        sealed_at_ms=_ms(batch.info.sealed_at),
        reason=FlushReason(batch.info.flush_reason),
    )


def to_client(policy: WindowPolicy) -> tidegate.WindowPolicy:
    """The policy for a call, with nothing left to the server."""
    return tidegate.WindowPolicy(
        mode=tidegate.WindowMode(policy.mode),
        delay=timedelta(milliseconds=policy.delay_ms),
        grace=timedelta(milliseconds=policy.grace_ms),
        max_wait=timedelta(milliseconds=policy.max_wait_ms),
        max_messages=policy.max_messages,
        max_bytes=policy.max_bytes,
    )


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
