"""The design that Tidegate replaces, at its best: the whole buffer as JSON, changed in a script.

A child of the benchmark.
"""

import json
import time
from typing import Any

from redis.asyncio import Redis

from bench.child import Run, main

_ADD = """
local buffer = redis.call('GET', KEYS[1])
buffer = buffer and cjson.decode(buffer) or {messages = {}, first = ARGV[2], processed = false}
buffer.messages[#buffer.messages + 1] = ARGV[1]
buffer.last = ARGV[2]
redis.call('SET', KEYS[1], cjson.encode(buffer), 'EX', 60)
return #buffer.messages
"""
_GROUP = 64


async def fill(run: Run, *, socket: str, name: str, messages: int, buffers: int) -> dict[str, Any]:
    """Add so many messages to each of so many buffers: microseconds for each place in a buffer."""
    async with Redis(unix_socket_path=socket) as store:
        script = await store.script_load(_ADD)
        await run.start()
        took_us: list[float] = []
        for n in range(messages):
            body, began = json.dumps({"text": "x" * 200, "n": n}), time.perf_counter()
            for first in range(0, buffers, _GROUP):
                async with store.pipeline(transaction=False) as group:
                    for k in range(first, min(buffers, first + _GROUP)):
                        group.evalsha(script, 1, f"{name}:{k}", body, str(n))
                    await group.execute()
            took_us.append((time.perf_counter() - began) / buffers * 1e6)
        return {"took_us": took_us}


if __name__ == "__main__":
    main({"fill": fill})
