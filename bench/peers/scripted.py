"""ADD by itself, in the same manner as the design that it replaces. A child of the benchmark."""

import time
from typing import Any

from bench.child import Run, main
from tidegate_server.core.model import Conversation, NewMessage, WindowPolicy
from tidegate_server.metrics import Metrics
from tidegate_server.store.connect import Address
from tidegate_server.store.redis import RedisStore

_GROUP = 64
_POLICY = WindowPolicy(delay_ms=3_600_000, max_wait_ms=3_600_000, max_messages=500)


async def fill(run: Run, *, socket: str, name: str, messages: int, buffers: int) -> dict[str, Any]:
    """Add so many messages to each of so many buffers: microseconds for each place in a buffer."""
    address = Address(f"unix://{socket}", timeout=10)
    store = RedisStore(address.dialer(), counters=Metrics(), prefix=name, timeout=10)
    store.start()
    await run.start()
    took_us: list[float] = []
    for n in range(messages):
        began = time.perf_counter()
        for first in range(0, buffers, _GROUP):
            group = range(first, min(buffers, first + _GROUP))
            await store.add(
                [
                    NewMessage(Conversation("bot", str(k)), f"{n}", b"x" * 200, 200, _POLICY)
                    for k in group
                ]
            )
        took_us.append((time.perf_counter() - began) / buffers * 1e6)
    await store.stop()
    return {"took_us": took_us}


if __name__ == "__main__":
    main({"fill": fill})
