"""Pushes the batches of an instance to its endpoint, as a subscriber that lives in the server."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from tidegate_server.core.model import Batch, DeliveryChannel, NackAction
from tidegate_server.engine.engine import Engine
from tidegate_server.errors import StoreUnavailable, TidegateError
from tidegate_server.logs import get_logger
from tidegate_server.metrics import Metrics
from tidegate_server.sinks.outcome import Outcome, Verdict
from tidegate_server.sinks.stream import Closing, Subscriber

LEASE_MARGIN_MS = 5_000
"""How much longer a lease is than the time for an answer."""
_SETTLING_S = 3.0
"""What is left of a lease for settling, when no answer has come in time."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_ACTIONS = {
    Verdict.ACK: None,
    Verdict.RETRY: NackAction.RETRY,
    Verdict.GONE: NackAction.RELEASE,
    Verdict.UNSENT: NackAction.RELEASE,
    Verdict.UNREADABLE: NackAction.DEAD_LETTER,
}
"""How a batch is settled; None: as processed."""

log = get_logger("tidegate.push")


class Unreadable(Exception):
    """A batch cannot be written as a body. The text says why, and holds nothing of it."""


class Endpoint(Protocol):
    """What a batch is pushed to."""

    async def send(self, batch_id: str, body: bytes, *, timeout_s: float) -> Outcome:
        """Push one batch; whatever happens is an outcome, within `timeout_s`."""
        ...


class Pusher:
    """Claims the batches of `instance`, pushes them, and settles them by what the endpoint says.

    At most `max_in_flight` at a time, `timeout_ms` for each. `body` writes a batch down, or raises
    `Unreadable`. An endpoint that says it is gone gets nothing any more.
    """

    def __init__(
        self,
        engine: Engine,
        instance: str,
        *,
        endpoint: Endpoint,
        body: Callable[[Batch], bytes],
        metrics: Metrics,
        max_in_flight: int,
        timeout_ms: int,
    ):
        self._engine = engine
        self._instance = instance
        self._endpoint = endpoint
        self._body = body
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._timeout_ms = timeout_ms
        self._works = True
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. It ends by itself when the server drains, once what is under way is settled.

        Raises:
            TidegateError: As `Engine.subscribe`.
        """
        subscriber = self._engine.subscribe(
            self._instance,
            instances=frozenset({self._instance}),
            max_in_flight=self._max_in_flight,
            lease_ms=self._timeout_ms + LEASE_MARGIN_MS,
            channel=DeliveryChannel.HTTP_PUSH,
        )
        self._task = asyncio.create_task(self._run(subscriber), name=f"push {self._instance}")

    async def stop(self) -> None:
        """End now. What is under way stays leased, for the endpoint may be working on it."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, subscriber: Subscriber) -> None:
        try:
            async with asyncio.TaskGroup() as pushes:
                while not isinstance(event := await subscriber.next(None), Closing):
                    if isinstance(event, Batch):
                        pushes.create_task(self._push(subscriber, event))
        finally:
            await asyncio.shield(self._engine.unsubscribe(subscriber))

    async def _push(self, subscriber: Subscriber, batch: Batch) -> None:
        try:
            outcome = await self._send(batch)
            self._note(batch.info.batch_id, outcome)
            if outcome.verdict is Verdict.GONE:
                # Before the batch goes back, or it would come again at once.
                await self._engine.unsubscribe(subscriber)
            await self._settle_in_time(batch, outcome)
        except TidegateError as error:
            # Settled by other means, or to be given out again when the lease is over.
            log.info("push not settled", batch_id=batch.info.batch_id, reason=error.reason)
        except Exception:
            log.exception("push failed", batch_id=batch.info.batch_id)

    async def _send(self, batch: Batch) -> Outcome:
        timeout_s = min(self._timeout_ms / 1_000, self._left_s(batch) - _SETTLING_S)
        if timeout_s <= 0:
            return Outcome(Verdict.UNSENT, "RELEASED", "its lease was nearly over")
        try:
            body = self._body(batch)
        except Unreadable as error:
            return Outcome(Verdict.UNREADABLE, "CORRUPT", str(error))
        return await self._endpoint.send(batch.info.batch_id, body, timeout_s=timeout_s)

    async def _settle_in_time(self, batch: Batch, outcome: Outcome) -> None:
        """Settle, and while the store is away try again until the lease is over."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_delay(max(0, self._left_s(batch))),
            wait=wait_random_exponential(_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            reraise=True,
        )
        await retrying(self._settle, batch, outcome)

    async def _settle(self, batch: Batch, outcome: Outcome) -> None:
        batch_id, action = batch.info.batch_id, _ACTIONS[outcome.verdict]
        if action is None:
            await self._engine.ack(batch_id, batch.token)
            return
        await self._engine.nack(
            batch_id,
            batch.token,
            action,
            retry_delay_ms=outcome.retry_after_ms,
            reason=outcome.reason,
            message=outcome.message,
        )

    def _note(self, batch_id: str, outcome: Outcome) -> None:
        """Count it, and say what has changed: not each failure of an endpoint that is down."""
        self._metrics.push_sent += outcome.verdict is Verdict.ACK
        self._metrics.push_failed += outcome.verdict in (Verdict.RETRY, Verdict.GONE)
        facts = {"endpoint": self._instance, "batch_id": batch_id, "why": outcome.message}
        if outcome.verdict is Verdict.GONE and not self._gone:
            self._gone = True
            self._metrics.push_off += 1
            log.error("push endpoint is gone and switched off until the next start", **facts)
        elif outcome.verdict is Verdict.RETRY and self._works:
            self._works = False
            log.warning("push endpoint fails", **facts)
        elif outcome.verdict is Verdict.ACK and not self._works:
            self._works = True
            log.info("push endpoint works again", endpoint=self._instance)
        elif outcome.verdict is Verdict.UNREADABLE:
            log.error("a batch cannot be read and becomes a dead letter", **facts)

    def _left_s(self, batch: Batch) -> float:
        return (
            batch.lease_expires_at_ms - self._engine.clocks.of(batch.info.conversation).now_ms()
        ) / 1_000
