"""Producers and subscribers that write down what they see, and do not give up on the unknown."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from tests.support.history import (
    Accepted,
    Add,
    Chat,
    Delivery,
    Flush,
    History,
    Phase,
    Received,
    Settlement,
)
from tests.support.stores import eventually
from tidegate import (
    Added,
    AddOutcome,
    Batch,
    Client,
    DeadlineExceeded,
    LeaseLost,
    NackAction,
    TidegateError,
    Unavailable,
    WindowPolicy,
)

_PAUSE_S = 0.02
_DEFAULT_DELAY = timedelta(seconds=8)


def window(delay_s: float, *, grace_s: float = 0, most: int = 100) -> WindowPolicy:
    """A fixed window."""
    return WindowPolicy(
        delay=timedelta(seconds=delay_s), grace=timedelta(seconds=grace_s), max_messages=most
    )


async def send(
    gate: Client,
    history: History,
    chat: Chat,
    name: str,
    *,
    payload: str | bytes | None = None,
    policy: WindowPolicy,
    flush: bool = False,
    timeout: timedelta | None = None,
) -> Added:
    """Add a message, as often as it takes to know what became of it."""
    payload = f"payload of {name}" if payload is None else payload
    delay_s = (_DEFAULT_DELAY if policy.delay is None else policy.delay).total_seconds()
    add = Add(chat, name, payload, delay_s, policy.max_messages or 100, flush)
    while True:
        operation = history.invoke(add)
        try:
            added = await gate.add(
                *chat, payload, message_id=name, policy=policy, flush=flush, timeout=timeout
            )
        except (Unavailable, DeadlineExceeded):
            history.end(operation, Phase.UNKNOWN, add)
            await asyncio.sleep(_PAUSE_S)
        except TidegateError:
            history.end(operation, Phase.FAIL, add)
            raise
        else:
            _accept(history, operation, add, added)
            return added


def _accept(history: History, operation: int, add: Add, added: Added) -> None:
    if added.fallback_to_immediate:
        history.end(operation, Phase.FAIL, add)
        return
    new = added.outcome is AddOutcome.BUFFERED
    history.end(operation, Phase.OK, add, Accepted(added.sequence, new))


async def flush(gate: Client, history: History, chat: Chat) -> bool:
    """Close a window now."""
    history.invoke(Flush(chat))
    return (await gate.flush(*chat)).flushed


def took(history: History, batch: Batch) -> None:
    """A subscriber has a batch."""
    history.deliver(
        Delivery(
            (batch.instance, batch.conversation),
            batch.id,
            batch.attempt,
            tuple(
                Received(m.id, m.sequence, m.payload, m.received_at.timestamp())
                for m in batch.messages
            ),
            batch.info.flush_reason.name,
            batch.info.sealed_at.timestamp(),
            batch.lease_expires_at.timestamp(),
            batch._lease.total_seconds(),
        )
    )


async def settle(
    history: History,
    batch: Batch,
    *,
    nack: NackAction | None = None,
    reason: str = "",
    final: bool = False,
) -> bool:
    """Ack or nack, as often as it takes to know what became of it. False: the lease is lost.

    An ack, and the nack that rebuffers it or makes it a dead letter, end the batch; so does the
    one of which the caller says that it is the last.
    """
    final = final or nack in (None, NackAction.DEAD_LETTER, NackAction.REBUFFER)
    settlement = Settlement(batch.id, batch.attempt, final, nack is NackAction.REBUFFER)
    while True:
        operation = history.invoke(settlement)
        try:
            await (batch.nack(nack, reason=reason) if nack else batch.ack())
        except (Unavailable, DeadlineExceeded):
            history.end(operation, Phase.UNKNOWN, settlement)
            await asyncio.sleep(_PAUSE_S)
        except LeaseLost:
            history.end(operation, Phase.FAIL, settlement)
            return False
        else:
            history.end(operation, Phase.OK, settlement)
            return True


class Reader:
    """A subscriber in the background. It acknowledges, unless `answer` does something else."""

    def __init__(
        self,
        gate: Client,
        history: History,
        *instances: str,
        answer: Callable[[Batch], Awaitable[object]] | None = None,
        max_in_flight: int = 64,
        lease: timedelta = timedelta(seconds=30),
    ):
        self.batches: list[Batch] = []
        self._history = history
        self._answer = answer or self._acknowledge
        self._subscription = gate.subscribe(*instances, max_in_flight=max_in_flight, lease=lease)
        self._task: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as answers, self._subscription:
            async for batch in self._subscription:
                took(self._history, batch)
                self.batches.append(batch)
                answers.create_task(self._see_to(batch))

    async def _acknowledge(self, batch: Batch) -> None:
        await settle(self._history, batch)

    async def _see_to(self, batch: Batch) -> None:
        await self._answer(batch)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome


class Load:
    """Producers that add to a handful of conversations as fast as they are answered."""

    def __init__(
        self,
        gates: Sequence[Client],
        history: History,
        instance: str,
        *,
        conversations: int = 20,
        producers: int = 8,
        policy: WindowPolicy | None = None,
    ):
        self.sent = 0
        self._gates = gates
        self._history = history
        self._chats = [(instance, f"user {n}") for n in range(conversations)]
        self._producers = producers
        self._policy = policy or window(0.05)
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let each producer know what became of its last message."""
        assert self._task
        self._stopping = True
        await self._task

    async def more(self, messages: int) -> None:
        """Wait until so many more have been acknowledged."""
        assert self._task
        task, goal = self._task, self.sent + messages
        await eventually(lambda: self.sent >= goal or task.done(), within_s=30)
        if task.done():
            await task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as producers:
            for n in range(self._producers):
                producers.create_task(self._produce(f"p{n}", self._gates[n % len(self._gates)]))

    async def _produce(self, producer: str, gate: Client) -> None:
        for n in itertools.count():
            if self._stopping:
                return
            chat = random.choice(self._chats)
            await send(gate, self._history, chat, f"{producer}-{n}", policy=self._policy)
            self.sent += 1
