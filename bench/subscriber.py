"""Load on the subscriber's side, as a process."""

import asyncio
import time
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from bench.channel import channel
from bench.child import Run, main
from bench.row import summary
from tidegate.v1 import delivery_service_pb2 as rpc
from tidegate.v1 import delivery_service_pb2_grpc as rpc_grpc

_PATIENCE_S = 60


async def receive(
    run: Run, *, target: str, count: int, streams: int, max_in_flight: int, ack: bool
) -> dict[str, Any]:
    """Take `count` batches: how long after their due times they were sealed and received.

    `failed` are those that could not be acknowledged, also not by repeating it.
    """
    times: list[tuple[int, int, float]] = []
    enough, failed = asyncio.Event(), list[str]()

    def note(received_s: float, batch: Any) -> None:
        info = batch.info
        times.append((_ms(info.due_at), _ms(info.sealed_at), received_s * 1_000))
        if len(times) >= count:
            enough.set()

    async with channel(target) as opened, asyncio.TaskGroup() as group:
        stub = cast("rpc_grpc.DeliveryServiceAsyncStub", rpc_grpc.DeliveryServiceStub(opened))

        async def settle(batch: Any) -> None:
            request = rpc.AckBatchRequest(
                batch_id=batch.info.batch_id, lease_token=batch.lease_token
            )
            try:
                await stub.AckBatch(request, timeout=10)
            except grpc.RpcError:
                failed.append(batch.info.batch_id)

        async def listen(call: Any) -> None:
            while (response := await call.read()) is not grpc.aio.EOF:
                received_s = time.time()
                if response.HasField("batch"):
                    note(received_s, response.batch)
                    if ack:
                        group.create_task(settle(response.batch))

        calls = [await _open(stub, number, max_in_flight) for number in range(streams)]
        listeners = [group.create_task(listen(call)) for call in calls]
        await run.start()
        async with asyncio.timeout(_PATIENCE_S):
            await enough.wait()
        for task in listeners:
            task.cancel()
    return _found(times) | {"failed": len(failed)}


def _found(times: list[tuple[int, int, float]]) -> dict[str, Any]:
    """In ms; `last_…` is from the last due time to the last of all."""
    last_due = max(due for due, _, _ in times)
    return {
        "sealed": summary([sealed - due for due, sealed, _ in times]),
        "received": summary([received - due for due, _, received in times]),
        "last_sealed": max(sealed for _, sealed, _ in times) - last_due,
        "last_received": max(received for _, _, received in times) - last_due,
    }


async def _open(stub: "rpc_grpc.DeliveryServiceAsyncStub", number: int, max_in_flight: int) -> Any:
    request = rpc.SubscribeRequest(subscriber_id=f"bench-{number}", max_in_flight=max_in_flight)
    call: Any = stub.Subscribe(request)
    await call.read()
    return call


def _ms(at: Timestamp) -> int:
    return at.seconds * 1_000 + at.nanos // 1_000_000


if __name__ == "__main__":
    main({"receive": receive})
