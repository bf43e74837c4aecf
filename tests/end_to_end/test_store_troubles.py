"""A store that is not there yet, hangs, dies, is full or forgets its scripts."""

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.end_to_end.traffic import Load, Reader, flush, send, settle, window
from tests.support.history import Add, History, Phase
from tests.support.servers import Server, refusal
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate import AddOutcome, Batch, Client, NackAction, NotFound, ResourceExhausted
from tidegate.errors import TidegateError, from_rpc_error
from tidegate.v1 import buffer_service_pb2 as buffer_pb2
from tidegate.v1 import buffer_service_pb2_grpc as buffer_grpc
from tidegate.v1 import types_pb2

each_store = pytest.mark.parametrize(
    "binary", [pytest.param(path, id=name) for name, path in binaries()]
)
BUFFER_SERVICE = "tidegate.v1.BufferService"


async def get(url: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def add_once(target: str, name: str, timeout_s: float) -> TidegateError | None:
    """Add a message without the client's repeats; the error if there was one."""
    async with grpc.aio.insecure_channel(target) as channel:
        request = buffer_pb2.AddMessageRequest(
            instance="bot", conversation="anna", message=types_pb2.Message(id=name, text="x")
        )
        stub: Any = buffer_grpc.BufferServiceStub(channel)
        try:
            await stub.AddMessage(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, target)
    return None


async def is_empty(gate: Client) -> bool:
    stats = await gate.stats()
    return stats.buffered_messages == stats.delivering_batches == 0


async def test_a_server_waits_for_a_store_that_comes_later(tmp_path: Path):
    store = StoreProcess()
    server = Server(tmp_path, store_url=store.user_url)
    server.spawn()
    await eventually(lambda: bool(server.logged("waiting for the store")))
    async with store:
        await server.serves()
        assert await server.terminate() == 0


async def test_a_server_whose_store_never_comes_ends_with_a_sentence(tmp_path: Path):
    server = Server(tmp_path, store_url=f"unix://{tmp_path}/nothing.sock", store_wait="300ms")
    code, said = await refusal(server)
    assert code == 1
    assert server.logged("waiting for the store")
    assert said.splitlines()[-1].startswith("tidegate: the store at unix:///")
    assert said.endswith("start it, or correct TIDEGATE_STORE_URL")
    assert "Traceback" not in said


async def test_a_server_that_waits_for_its_store_can_be_told_to_stop(tmp_path: Path):
    server = Server(tmp_path, store_url=f"unix://{tmp_path}/nothing.sock")
    server.spawn()
    await eventually(lambda: bool(server.logged("waiting for the store")))
    assert await server.terminate() == 0


async def test_while_the_store_hangs_an_add_fails_within_its_deadline_and_readiness_says_so(
    tmp_path: Path,
):
    async with (
        StoreProcess() as store,
        Server(tmp_path, store_url=store.user_url, http_listen="127.0.0.1:0") as server,
        Client(server.target) as gate,
        Reader(gate, History()),
    ):
        assert await get(f"{server.http}/readyz") == (200, "ready")
        store.pause()
        begun_s = time.monotonic()
        error = await add_once(server.target, "m1", timeout_s=0.5)
        assert time.monotonic() - begun_s < 0.5
        assert error
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert error.retry_after

        async def is_unready() -> bool:
            answer = await get(f"{server.http}/readyz")
            health = await server.health(BUFFER_SERVICE)
            return answer == (503, "the store cannot be reached") and health == "NOT_SERVING"

        await eventually(is_unready)
        assert await get(f"{server.http}/healthz") == (200, "ok")
        assert await server.health() == "SERVING"
        store.resume()

        async def is_ready() -> bool:
            answer = await get(f"{server.http}/readyz")
            return answer[0] == 200 and await server.health(BUFFER_SERVICE) == "SERVING"

        await eventually(is_ready)
        assert await add_once(server.target, "m1", timeout_s=5) is None


async def test_a_caller_who_wants_it_gets_the_message_back_when_it_is_surely_not_stored(
    tmp_path: Path, history: History
):
    async with (
        StoreProcess(appendonly="yes", appendfsync="no") as store,
        Server(tmp_path, store_url=store.user_url, fallback="immediate") as server,
        Client(server.target) as gate,
    ):
        await send(gate, history, ("bot", "anna"), "m0", policy=window(0))
        store.pause()
        unknown = await add_once(server.target, "m1", timeout_s=0.3)
        assert unknown
        assert unknown.reason == "STORE_UNAVAILABLE"
        store.resume()
        await store.kill()

        async def falls_back() -> bool:
            added = await send(gate, history, ("bot", "berta"), "m2", policy=window(0))
            assert added.fallback_reason in ("", "STORE_UNAVAILABLE")
            return added.outcome is AddOutcome.FALLBACK

        await eventually(falls_back)
        assert await falls_back()
        await store.start()
        await send(gate, history, ("bot", "clara"), "m3", policy=window(0))
        history.invoke(Add(("bot", "anna"), "m1", "x", delay_s=0))
        async with Reader(gate, history, "bot"):
            await eventually(history.drained)
            await eventually(lambda: is_empty(gate))


@each_store
async def test_a_store_that_hangs_or_dies_under_load_costs_no_message(
    binary: Path, tmp_path: Path, history: History
):
    async with (
        StoreProcess(binary, appendonly="yes", appendfsync="always") as store,
        Server(tmp_path, store_url=store.user_url, store_timeout="200ms") as server,
        Client(server.target) as gate,
    ):
        lease = timedelta(seconds=1)
        async with Reader(gate, history, "bot", lease=lease):
            async with Load([gate], history, "bot") as load:
                await load.more(100)
                store.pause()
                await eventually(lambda: bool(server.logged("the store is away")))
                store.resume()
                await load.more(100)
                for _ in range(2):
                    await store.kill()
                    await store.start()
                    await load.more(100)
            await eventually(history.drained, within_s=20)


@each_store
async def test_a_full_store_refuses_messages_without_a_trace_and_still_drains(
    binary: Path, tmp_path: Path, history: History
):
    nacked: list[Batch] = []

    async def answer(batch: Batch) -> None:
        if batch.conversation == "nacked" and not nacked:
            nacked.append(batch)
            await settle(history, batch, nack=NackAction.RETRY)
        else:
            await settle(history, batch)

    async with (
        StoreProcess(binary) as store,
        Server(tmp_path, store_url=store.user_url, retry_base="50ms") as server,
        Client(server.target) as gate,
        store.client() as client,
    ):
        for conversation, delay_s in (("acked", 0), ("nacked", 0), ("flushed", 60)):
            await send(gate, history, ("bot", conversation), "m1", policy=window(delay_s))
        await client.config_set("maxmemory", "1")
        for conversation in ("acked", "new"):
            with pytest.raises(ResourceExhausted) as refused:
                await send(gate, history, ("bot", conversation), "m2", policy=window(0))
            assert refused.value.reason == "STORE_FULL"
            assert refused.value.retry_after
        with pytest.raises(NotFound):
            await gate.status("bot", "new")
        assert (await gate.stats()).buffered_messages == 3

        assert await flush(gate, history, ("bot", "flushed"))
        async with Reader(gate, history, "bot", answer=answer) as reader:
            await eventually(history.drained)
            assert len(reader.batches) == 4
            await client.config_set("maxmemory", "0")
            for conversation in ("acked", "new"):
                await send(gate, history, ("bot", conversation), "m2", policy=window(0))
            await eventually(history.drained)


@each_store
async def test_a_store_that_forgets_its_scripts_is_taught_again_unnoticed(
    binary: Path, tmp_path: Path, history: History
):
    async with (
        StoreProcess(binary) as store,
        Server(tmp_path, store_url=store.user_url) as server,
        Client(server.target) as gate,
        store.client() as client,
    ):
        async with Reader(gate, history, "bot"):
            async with Load([gate], history, "bot") as load:
                for _ in range(5):
                    await client.script_flush()
                    await load.more(100)
            await eventually(history.drained)
        assert not any(event.phase is Phase.UNKNOWN for event in history.events)
        assert not server.logged("the store is away")


async def test_an_embedded_store_that_hangs_is_waited_for(tmp_path: Path, history: History):
    async with (
        Server(tmp_path, store_timeout="200ms") as server,
        Client(server.target) as gate,
        Reader(gate, history, "bot", lease=timedelta(seconds=1)),
    ):
        async with Load([gate], history, "bot") as load:
            await load.more(100)
            os.kill(server.store_pid(), signal.SIGSTOP)
            await eventually(lambda: bool(server.logged("the store is away")))
            os.kill(server.store_pid(), signal.SIGCONT)
            await load.more(100)
        await eventually(history.drained)
