"""How many jobs a second saq, arq and docket enqueue. Runs where they are installed, not Tidegate.

A child of the benchmark: makes itself ready and says so, waits for a line, works, prints JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

Call = Callable[[], Awaitable[Any]]
PAYLOAD = "x" * 200


async def saq(socket: str, name: str) -> Call:
    """A job in a queue of saq."""
    from redis.asyncio import Redis
    from saq.queue.redis import RedisQueue

    queue = RedisQueue(Redis(unix_socket_path=socket), name=name)
    await queue.connect()
    return lambda: queue.enqueue("answer", text=PAYLOAD)


async def arq(socket: str, name: str) -> Call:
    """A job in a queue of arq."""
    from arq.connections import RedisSettings, create_pool

    pool = await create_pool(RedisSettings(unix_socket_path=socket))
    return lambda: pool.enqueue_job("answer", PAYLOAD, _queue_name=name)


async def docket(socket: str, name: str) -> Call:
    """A task in a docket."""
    from docket import Docket

    async def answer(text: str) -> None: ...

    opened = await Docket(name, url=f"unix://{socket}").__aenter__()
    opened.register(answer)
    return lambda: opened.add(answer)(PAYLOAD)


async def closed(call: Call, in_flight: int, seconds: float) -> int:
    """Keep so many calls under way: how many were answered."""
    ends, count = time.perf_counter() + seconds, 0

    async def one_after_the_other() -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await call()
            count += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    return count


async def main(which: str, *, socket: str, name: str, in_flight: int, seconds: float) -> None:
    """The child's whole life."""
    call = await {"saq": saq, "arq": arq, "docket": docket}[which](socket, name)
    await closed(call, in_flight, min(0.5, seconds))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    cpu_s, began = time.process_time(), time.perf_counter()
    count = await closed(call, in_flight, seconds)
    took_s = time.perf_counter() - began
    busy = (time.process_time() - cpu_s) / took_s
    print(json.dumps({"count": count, "seconds": took_s, "busy": busy}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], **json.loads(sys.argv[2])))
