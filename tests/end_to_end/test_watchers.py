"""Those who watch never slow those who write."""

import asyncio
import sys
import textwrap
import time

from tests.end_to_end.traffic import window
from tests.support.servers import Server
from tidegate import Client

WATCHERS, ADDS = 990, 1_500
CROWD = textwrap.dedent("""
    import asyncio, sys
    import grpc.aio
    from tidegate.v1 import admin_service_pb2, admin_service_pb2_grpc

    async def main(target, count):
        async with grpc.aio.insecure_channel(target) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            request = admin_service_pb2.WatchEventsRequest()
            calls = [stub.WatchEvents(request) for _ in range(count)]
            await asyncio.gather(*(call.read() for call in calls))
            print("all have seen one and read no more", flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
""")


async def test_a_thousand_slow_watchers_do_not_slow_adds(shared_server: Server):
    async with Client(shared_server.target) as gate:
        await rate(gate, "warm-up")
        alone = await rate(gate, "alone")
        crowd = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CROWD, shared_server.target, str(WATCHERS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert crowd.stdin
        assert crowd.stdout
        ready = asyncio.create_task(crowd.stdout.readline())
        while not ready.done():
            await gate.add("watched", "anyone", "text", policy=window(0.2))
            await asyncio.sleep(0.05)
        beside = await rate(gate, "beside")
        crowd.stdin.close()
        assert await crowd.wait() == 0
    # Equal in calm; what is to be caught is a cost for each watcher, which would be tenfold.
    assert beside > alone / 3, f"{alone:.0f} adds/s alone, {beside:.0f} beside the watchers"
    print(f"{alone:.0f} adds/s alone, {beside:.0f} beside {WATCHERS} slow watchers")


async def rate(gate: Client, name: str) -> float:
    """Adds a second, 32 at a time."""
    began = time.perf_counter()
    places = iter(range(ADDS))

    async def write() -> None:
        for n in places:
            await gate.add("watched", f"{name} {n}", "text", policy=window(0.2))

    await asyncio.gather(*(write() for _ in range(32)))
    return ADDS / (time.perf_counter() - began)
