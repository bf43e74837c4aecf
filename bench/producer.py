"""Load on the producer's side, as a process."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

from bench.channel import channel
from bench.child import Run, main
from bench.echo import METHOD
from bench.row import summary
from tidegate import Client
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import buffer_service_pb2_grpc as rpc_grpc

Call = Callable[[rpc.AddMessageRequest], Awaitable[Any]]

PAYLOAD = "x" * 200
CONVERSATIONS = 5_000
_TIMEOUT_S = 10.0
_WARM_UP_S = 0.5


@asynccontextmanager
async def caller(target: str, *, echo: bool = False) -> AsyncGenerator[Call]:
    """Sends one AddMessageRequest to a Tidegate, or to an echo server that sends it back."""
    async with channel(target) as opened:
        if echo:
            method: Any = opened.unary_unary(
                METHOD,
                rpc.AddMessageRequest.SerializeToString,
                rpc.AddMessageRequest.FromString,
            )
        else:
            method = cast("rpc_grpc.BufferServiceAsyncStub", rpc_grpc.BufferServiceStub(opened))
            method = method.AddMessage

        async def call(request: rpc.AddMessageRequest) -> Any:
            return await method(request, timeout=_TIMEOUT_S)

        yield call


def requests(name: str) -> Iterator[rpc.AddMessageRequest]:
    """Messages of 200 bytes, in turn for each of many conversations; no two have the same id."""
    for n in itertools.count():
        request = rpc.AddMessageRequest(
            instance="bot", conversation=f"+49 170 {name} {n % CONVERSATIONS}"
        )
        request.message.id = f"{name}-{n}"
        request.message.text = PAYLOAD
        yield request


async def closed(
    run: Run, *, target: str, echo: bool, in_flight: int, seconds: float, name: str
) -> dict[str, Any]:
    """Keep `in_flight` calls under way: how many were answered, in how many seconds."""
    source = requests(name)
    async with caller(target, echo=echo) as call:
        await repeat(lambda: call(next(source)), in_flight, min(_WARM_UP_S, seconds))
        await run.start()
        began = time.perf_counter()
        count = await repeat(lambda: call(next(source)), in_flight, seconds)
        return {"count": count, "seconds": time.perf_counter() - began}


async def repeat(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> int:
    """Keep so many calls under way for so long: how many were answered."""
    ends, count = time.perf_counter() + seconds, 0

    async def one_after_the_other() -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await call()
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_the_other())
    return count


async def gathered(
    run: Run, *, target: str, in_flight: int, seconds: float, name: str
) -> dict[str, Any]:
    """As `closed`, by the `add` of the Python client, which gathers what is under way together."""
    numbers = itertools.count()
    async with Client(target) as gate:

        async def call() -> None:
            n = next(numbers)
            chat = f"+49 170 {name} {n % CONVERSATIONS}"
            await gate.add("bot", chat, PAYLOAD, message_id=f"{name}-{n}")

        await repeat(call, in_flight, min(_WARM_UP_S, seconds))
        await run.start()
        began = time.perf_counter()
        count = await repeat(call, in_flight, seconds)
        return {"count": count, "seconds": time.perf_counter() - began}


async def streamed(
    run: Run, *, target: str, entries: int, in_flight: int, seconds: float, name: str
) -> dict[str, Any]:
    """As `closed`, by StreamMessages with so many messages a request, all of them made before."""
    source = requests(name)
    made = [[next(source) for _ in range(entries)] for _ in range(2 * in_flight)]
    async with channel(target) as opened:
        stub = cast("rpc_grpc.BufferServiceAsyncStub", rpc_grpc.BufferServiceStub(opened))
        stream: Any = stub.StreamMessages()

        async def send(number: int) -> None:
            chosen = made[number % len(made)]
            for n, request in enumerate(chosen):
                request.message.id = f"{name}-{number}-{n}"
            await stream.write(rpc.StreamMessagesRequest(correlation_id=number, messages=chosen))

        async def exchange(till_s: float, first: int) -> tuple[int, int]:
            number, answered = first, 0
            for _ in range(in_flight):
                await send(number)
                number += 1
            while answered < number - first:
                response = await stream.read()
                assert all(result.HasField("response") for result in response.results)
                answered += 1
                if time.perf_counter() < till_s:
                    await send(number)
                    number += 1
            return answered, number

        _, number = await exchange(time.perf_counter() + min(_WARM_UP_S, seconds), 0)
        await run.start()
        began = time.perf_counter()
        answered, _ = await exchange(began + seconds, number)
        took_s = time.perf_counter() - began
        await stream.done_writing()
        return {"count": answered * entries, "seconds": took_s}


async def steady(run: Run, *, target: str, rate: int, seconds: float, name: str) -> dict[str, Any]:
    """Send `rate` messages a second, whatever the answers take: how long they took, in ms."""
    source, took_ms, late_ms = requests(name), list[float](), list[float]()

    async def one(call: Call) -> None:
        began = time.perf_counter()
        await call(next(source))
        took_ms.append((time.perf_counter() - began) * 1_000)

    async with caller(target) as call:
        await repeat(lambda: call(next(source)), 4, min(_WARM_UP_S, seconds))
        await run.start()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for n in range(round(rate * seconds)):
                if (wait_s := began + n / rate - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                late_ms.append((time.perf_counter() - began) * 1_000 - n * 1_000 / rate)
                group.create_task(one(call))
    return {"took_ms": summary(took_ms), "late_ms": summary(late_ms)}


async def windows(
    run: Run, *, target: str, count: int, in_flight: int, first_s: float, last_s: float, name: str
) -> dict[str, Any]:
    """Open `count` windows at once; their ends lie evenly from `first_s` to `last_s` from now."""
    source = requests(name)
    async with caller(target) as call:
        await call(_closing(next(source), 60_000))
        await run.start()
        began, numbers, too_late = time.time(), iter(range(count)), 0

        async def open_some() -> None:
            nonlocal too_late
            for n in numbers:
                ends = began + first_s + (last_s - first_s) * n / count
                delay_ms = round((ends - time.time()) * 1_000)
                too_late += delay_ms < 0
                request = next(source)
                request.conversation = f"+49 170 {name} of {n}"
                await call(_closing(request, max(0, delay_ms)))

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(open_some())
        return {"seconds": time.time() - began, "too_late": too_late}


def _closing(request: rpc.AddMessageRequest, delay_ms: int) -> rpc.AddMessageRequest:
    request.policy.delay.FromMilliseconds(delay_ms)
    request.policy.grace.FromMilliseconds(0)
    return request


if __name__ == "__main__":
    main(
        {
            "closed": closed,
            "gathered": gathered,
            "streamed": streamed,
            "steady": steady,
            "windows": windows,
        }
    )
