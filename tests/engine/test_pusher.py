import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from tests.engine.support import NOW, PATIENCE_S, Server, message, servers, taken, until
from tests.support.endpoint import CLOSE, HANG, Reply, ScriptedEndpoint
from tidegate_server.core.model import Batch, BatchState, Conversation, DeliveryChannel, NackAction
from tidegate_server.core.retry import RetryPolicy
from tidegate_server.engine.pusher import LEASE_MARGIN_MS, Pusher, Unreadable
from tidegate_server.errors import StoreUnavailable
from tidegate_server.sinks.http import HttpEndpoint
from tidegate_server.sinks.outcome import Outcome, Verdict
from tidegate_server.store.base import Settled

QUICK = RetryPolicy(base_ms=20)
ACK = Outcome(Verdict.ACK)
RETRY = Outcome(Verdict.RETRY, "HTTP_503", "the endpoint answered 503")
GONE = Outcome(Verdict.GONE, "HTTP_410", "the endpoint answered 410")


class FakeEndpoint:
    """Answers by its script; an event in it is waited for first, and taken as an ack."""

    def __init__(self, *script: Outcome | asyncio.Event):
        self.sent: list[str] = []
        self.at: list[float] = []
        self.most = 0
        self._now = 0
        self._script = list(script)

    async def send(self, batch_id: str, body: bytes, *, timeout_s: float) -> Outcome:
        self.sent.append(batch_id)
        self.at.append(time.monotonic())
        self._now += 1
        self.most = max(self.most, self._now)
        answer = self._script.pop(0) if self._script else ACK
        try:
            if isinstance(answer, asyncio.Event):
                async with asyncio.timeout(timeout_s):
                    await answer.wait()
                return ACK
            return answer
        finally:
            self._now -= 1


def body(batch: Batch) -> bytes:
    return b"".join(stored.body for stored in batch.messages)


@asynccontextmanager
async def pushing(
    server: Server,
    endpoint: FakeEndpoint | HttpEndpoint,
    *,
    body: Callable[[Batch], bytes] = body,
    most: int = 4,
    timeout_ms: int = 5_000,
) -> AsyncGenerator[Pusher]:
    pusher = Pusher(
        server.engine,
        "a",
        endpoint=endpoint,
        body=body,
        metrics=server.metrics,
        max_in_flight=most,
        timeout_ms=timeout_ms,
    )
    pusher.start()
    try:
        yield pusher
    finally:
        await pusher.stop()


async def current(server: Server, name: str) -> BatchState | None:
    """Where the conversation's batch stands."""
    info = (await server.engine.store.status(Conversation("a", name))).current_batch
    return info.state if info else None


async def test_a_batch_is_pushed_and_settled_by_the_answer():
    endpoint = FakeEndpoint()
    async with servers() as (server,), pushing(server, endpoint):
        await server.add("ann", "ann")
        await until(lambda: server.metrics.acked == 1)
        (batch_id,) = endpoint.sent
        details = await server.engine.store.batch(batch_id)
    assert details.info.state is BatchState.COMPLETED
    assert details.info.message_count == 2
    (attempt,) = details.attempts
    assert (attempt.channel, attempt.subscriber_id) == (DeliveryChannel.HTTP_PUSH, "a")
    assert (server.metrics.push_sent, server.metrics.push_failed) == (1, 0)


async def test_no_more_are_pushed_at_a_time_than_may_be():
    events = [asyncio.Event() for _ in range(6)]
    endpoint = FakeEndpoint(*events)
    async with servers() as (server,), pushing(server, endpoint, most=2):
        await server.add(*"abcdef", policy=NOW)
        await until(lambda: len(endpoint.sent) == 2)
        for event in events:
            event.set()
        await until(lambda: server.metrics.acked == 6)
    assert endpoint.most == 2


async def test_other_instances_are_not_pushed():
    endpoint = FakeEndpoint()
    async with servers() as (server,), pushing(server, endpoint):
        await server.add("ann", instance="b", policy=NOW)
        subscriber = server.subscribe("b")
        await server.ack(await taken(subscriber))
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.acked == 2)
    assert len(endpoint.sent) == 1


async def test_a_push_that_fails_is_tried_again_with_growing_waits_and_then_is_a_dead_letter():
    endpoint = FakeEndpoint(*[RETRY] * 4)
    async with servers(retry=QUICK) as (server,), pushing(server, endpoint):
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.dead_lettered == 1)
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.acked == 1)
        details = await server.engine.store.batch(endpoint.sent[0])
    assert len(set(endpoint.sent[:4])) == 1
    gaps = [later - earlier for earlier, later in zip(endpoint.at, endpoint.at[1:4], strict=False)]
    assert [gap >= 0.019 * 2**n for n, gap in enumerate(gaps)] == [True] * 3
    assert [(a.error_reason, a.error_message) for a in details.attempts] == [
        ("HTTP_503", "the endpoint answered 503")
    ] * 4
    assert (server.metrics.push_sent, server.metrics.push_failed) == (1, 4)


async def test_an_endpoint_may_ask_for_a_longer_wait():
    endpoint = FakeEndpoint(Outcome(Verdict.RETRY, "HTTP_429", "", retry_after_ms=300))
    async with servers(retry=QUICK) as (server,), pushing(server, endpoint):
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.acked == 1)
    assert endpoint.at[1] - endpoint.at[0] >= 0.299


async def test_an_endpoint_that_is_gone_gets_nothing_more_and_its_batches_wait_uncounted():
    slow = asyncio.Event()
    endpoint = FakeEndpoint(slow, GONE)
    async with servers() as (server,), pushing(server, endpoint):
        await server.add("ann", policy=NOW)
        await until(lambda: len(endpoint.sent) == 1)
        await server.add("bob", policy=NOW)
        await until(lambda: server.metrics.released == 1)
        await server.add("cid", policy=NOW)
        slow.set()
        await until(lambda: server.metrics.acked == 1 and not server.engine.subscribers)
        assert len(endpoint.sent) == 2
        assert (server.metrics.push_off, server.metrics.dead_lettered) == (1, 0)
        subscriber = server.subscribe("a")
        batches = [await taken(subscriber) for _ in range(2)]
        assert {batch.info.conversation.name for batch in batches} == {"bob", "cid"}
        assert {batch.info.attempt for batch in batches} == {1}


async def test_a_batch_that_cannot_be_written_down_is_a_dead_letter_and_others_flow():
    def picky(batch: Batch) -> bytes:
        if batch.info.conversation.name == "ann":
            raise Unreadable("the stored message with sequence 1 cannot be read")
        return b"{}"

    endpoint = FakeEndpoint()
    async with servers() as (server,), pushing(server, endpoint, body=picky):
        await server.add("ann", "bob", policy=NOW)
        await until(lambda: server.metrics.acked == 1 and server.metrics.dead_lettered == 1)
        (dead,) = await server.engine.store.dead_letters(None, limit=9)
    assert (dead.last_error_reason, len(endpoint.sent)) == ("CORRUPT", 1)


async def test_a_bug_costs_one_lease_and_stops_no_other_push():
    def broken(batch: Batch) -> bytes:
        if batch.info.conversation.name == "ann" and batch.info.attempt == 1:
            raise RuntimeError("a bug")
        return b"{}"

    endpoint = FakeEndpoint()
    async with servers() as (server,), pushing(server, endpoint, body=broken):
        await server.add("ann", "bob", policy=NOW)
        await until(lambda: server.metrics.acked == 1)
        assert await current(server, "ann") is BatchState.DELIVERING


async def test_an_answer_is_settled_when_the_store_is_back():
    endpoint = FakeEndpoint()
    async with servers() as (server,), pushing(server, endpoint):
        calls, ack = list[str](), server.store.ack

        async def away(batch_id: str, token: str, *, only_if_current: bool = False) -> Settled:
            calls.append(token)
            if len(calls) < 3:
                raise StoreUnavailable("the store cannot be reached")
            return await ack(batch_id, token, only_if_current=only_if_current)

        server.store.ack = away
        await server.add("ann", policy=NOW)
        await until(lambda: server.metrics.acked == 1)
        assert (len(calls), len(set(calls)), len(endpoint.sent)) == (3, 1, 1)


async def test_an_endpoint_may_settle_the_batch_by_itself():
    answering = asyncio.Event()
    endpoint = FakeEndpoint(answering)
    async with servers() as (server,), pushing(server, endpoint, most=1):
        await server.add("ann", policy=NOW)
        await until(lambda: len(endpoint.sent) == 1)
        token = server.store.tokens[-1]
        await server.engine.nack(endpoint.sent[0], token, NackAction.DEAD_LETTER)
        answering.set()
        await server.add("bob", policy=NOW)
        await until(lambda: server.metrics.acked == 1)
        assert server.metrics.dead_lettered == 1


async def test_a_lease_is_longer_than_an_attempt():
    held = asyncio.Event()
    endpoint = FakeEndpoint(held)
    async with servers() as (server,), pushing(server, endpoint, timeout_ms=700):
        await server.add("ann", policy=NOW)
        await until(lambda: len(endpoint.sent) == 1)
        (subscriber,) = server.engine.subscribers._open
        assert subscriber.lease_ms == 700 + LEASE_MARGIN_MS
        held.set()


async def test_a_server_that_drains_settles_what_is_under_way_and_gives_back_the_rest():
    answering = asyncio.Event()
    endpoint = FakeEndpoint(answering)
    async with servers() as (server,), pushing(server, endpoint, most=1):
        await server.add("ann", "bob", policy=NOW)
        await until(lambda: len(endpoint.sent) == 1)
        draining = asyncio.create_task(server.engine.drain(PATIENCE_S))
        await until(lambda: server.engine.draining)
        answering.set()
        await draining
        assert (server.metrics.acked, len(endpoint.sent)) == (1, 1)
        assert not server.engine.subscribers


async def test_a_push_that_is_cut_stays_leased():
    endpoint = FakeEndpoint(asyncio.Event())
    async with servers() as (server,), pushing(server, endpoint) as pusher:
        await server.add("ann", policy=NOW)
        await until(lambda: len(endpoint.sent) == 1)
        await pusher.stop()
        assert await current(server, "ann") is BatchState.DELIVERING
        assert not server.engine.subscribers


async def test_two_replicas_share_an_endpoint_and_push_each_batch_once():
    endpoint, size = FakeEndpoint(), dict[str, int]()

    def counted(batch: Batch) -> bytes:
        size[batch.info.batch_id] = batch.info.message_count
        return b"{}"

    async with (
        servers(2, sweep_ms=50) as (first, second),
        pushing(first, endpoint, body=counted),
        pushing(second, endpoint, body=counted),
    ):
        for server in (first, second):
            await server.engine.add([message(f"{n}", policy=NOW) for n in range(10)])
        await until(lambda: sum(size[batch_id] for batch_id in endpoint.sent) == 20)
    assert len(endpoint.sent) == len(set(endpoint.sent))


async def test_an_endpoint_of_many_moods_is_pushed_to_as_documented():
    script = (Reply(503), Reply(503), 200, HANG, *[CLOSE] * 3, 200)
    async with (
        ScriptedEndpoint(*script) as there,
        servers(retry=QUICK) as (server,),
    ):
        endpoint = HttpEndpoint(there.url, allow_private=True)
        try:
            async with pushing(server, endpoint, most=1, timeout_ms=1_000):
                await server.add("ann", policy=NOW)
                await until(lambda: server.metrics.acked == 1)
                await server.add("bob", policy=NOW)
                async with asyncio.timeout(10):
                    while server.metrics.acked < 2:  # noqa: ASYNC110 - a counter has no event
                        await asyncio.sleep(0.01)
                there.then(410)
                await server.add("cid", policy=NOW)
                await until(lambda: not server.engine.subscribers)
                details = [
                    await server.engine.store.batch(request.batch_id)
                    for request in (there.requests[0], there.requests[3])
                ]
        finally:
            await endpoint.close()
    ann, bob = details
    assert [a.error_reason for a in ann.attempts] == ["HTTP_503", "HTTP_503", ""]
    assert [a.error_reason for a in bob.attempts] == ["TIMEOUT", "CONNECT", ""]
    assert len(there.requests) == 9
    metrics = server.metrics
    assert (metrics.push_sent, metrics.push_failed, metrics.push_off) == (2, 5, 1)
    assert (metrics.retried, metrics.released, metrics.dead_lettered) == (4, 1, 0)
