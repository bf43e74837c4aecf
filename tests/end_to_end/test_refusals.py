"""A server that cannot start says in one sentence why and what to do, and leaves nothing behind."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.traffic import Reader, send, window
from tests.support.history import History
from tests.support.servers import Server, refusal
from tests.support.stores import StoreProcess, binaries, eventually
from tidegate import Client, NackAction

each_store = pytest.mark.parametrize(
    "binary", [pytest.param(path, id=name) for name, path in binaries()]
)
# What the store's user of a server must be allowed to do, and nothing else.
ACL = (
    "~tg:* resetchannels &tg:* -@all"
    " +@read +@write +@scripting +@pubsub +@connection -@dangerous +info +time"
)


async def refused(directory: Path, **settings: str) -> tuple[int, str]:
    """How the server refuses: its exit code, and the one sentence that it says at the end."""
    server = Server(directory / "refused", **settings)
    code, said = await refusal(server)
    assert "Traceback" not in said
    sentences = [line for line in said.splitlines() if not line.startswith("{")]
    assert len(sentences) == 1, said
    return code, sentences[0]


async def test_a_port_that_is_in_use(tmp_path: Path, shared_server: Server):
    code, said = await refused(tmp_path, listen=shared_server.target)
    assert code == 1
    assert said.startswith(f"tidegate: TIDEGATE_LISTEN: cannot listen on {shared_server.target}")


async def test_an_http_port_that_is_in_use(tmp_path: Path, shared_server: Server):
    code, said = await refused(tmp_path, http_listen=shared_server.target)
    assert code == 1
    assert f"TIDEGATE_HTTP_LISTEN names {shared_server.target}, which cannot be listened on" in said


async def test_a_unix_socket_of_another_server(tmp_path: Path):
    async with Server(tmp_path / "a") as first:
        code, said = await refused(tmp_path, listen=first.target)
        assert code == 1
        assert f"cannot listen on {first.target}" in said
        assert await first.health() == "SERVING"


async def test_a_data_directory_of_another_server(tmp_path: Path, shared_server: Server):
    directory = shared_server.dir / "data"
    code, said = await refused(tmp_path, data_dir=str(directory))
    assert code == 1
    assert f"the data directory {directory} belongs to another Tidegate server" in said
    assert f"process {shared_server.pid}" in said


async def test_a_data_directory_that_is_none(tmp_path: Path):
    (tmp_path / "file").touch()
    code, said = await refused(tmp_path, data_dir=f"{tmp_path}/file/data")
    assert code == 1
    assert "cannot be used (Not a directory): make it writable" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_data_directory_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, said = await refused(tmp_path, data_dir=f"{tmp_path}/locked/data")
    assert code == 1
    assert "cannot be used (Permission denied): make it writable" in said


async def test_an_address_that_others_could_reach(tmp_path: Path):
    code, said = await refused(tmp_path, listen="0.0.0.0:7460")
    assert code == 2
    assert said.startswith('TIDEGATE_LISTEN is "0.0.0.0:7460"; it must be on 127.0.0.1')


async def test_a_setting_that_does_not_exist(tmp_path: Path):
    code, said = await refused(tmp_path, window_dely="8s")
    assert code == 2
    assert said == "TIDEGATE_WINDOW_DELY is unknown; did you mean TIDEGATE_WINDOW_DELAY?"


async def test_a_url_that_is_none(tmp_path: Path):
    code, said = await refused(tmp_path, store_url="http://user:hunter2@localhost")
    assert code == 2
    assert "TIDEGATE_STORE_URL is" in said
    assert "redis://host:port/db" in said
    assert "hunter2" not in said


async def test_a_store_where_nothing_listens(tmp_path: Path):
    url = "redis://:hunter2@127.0.0.1:1"
    code, said = await refused(tmp_path, store_url=url, store_wait="0s")
    assert code == 1
    assert "the store at redis://127.0.0.1:1 cannot be reached" in said
    assert "hunter2" not in said


@each_store
async def test_a_store_that_deletes_messages_when_memory_is_short(binary: Path, tmp_path: Path):
    async with StoreProcess(binary, maxmemory_policy="allkeys-lru") as store:
        code, said = await refused(tmp_path, store_url=store.user_url)
    assert code == 1
    assert said.endswith("set `maxmemory-policy noeviction`")


async def test_a_store_that_is_less_durable_than_is_wanted(tmp_path: Path):
    async with StoreProcess() as store:
        code, said = await refused(tmp_path, store_url=store.user_url, durability="fsync")
    assert code == 1
    assert "the durability fsync is wanted, and the store has memory: set `appendonly" in said


@each_store
async def test_a_wrong_password(binary: Path, tmp_path: Path):
    async with StoreProcess(binary, tcp=True) as store, store.client() as client:
        await client.config_set("requirepass", "right")
        for password in ("", "hunter2"):
            code, said = await refused(tmp_path, store_url=store.url, store_password=password)
            assert code == 1
            assert f"the store at {store.url} refuses" in said
            assert "TIDEGATE_STORE_PASSWORD" in said
            assert "hunter2" not in said


async def test_a_store_that_is_no_store(tmp_path: Path, shared_server: Server):
    url = f"redis://{shared_server.target}"
    code, said = await refused(tmp_path, store_url=url, store_wait="0s", store_timeout="500ms")
    assert code == 1
    assert f"the store at {url}" in said


@each_store
async def test_a_user_that_may_touch_only_the_keys_of_the_server_is_enough(
    binary: Path, tmp_path: Path, history: History
):
    async with StoreProcess(binary) as store, store.client() as client:
        await client.execute_command("ACL", "SETUSER", "gate", "on", ">right", *ACL.split())
        server = Server(
            tmp_path, store_url=store.user_url, store_username="gate", store_password="right"
        )
        async with server, Client(server.target) as gate:
            await send(gate, history, ("bot", "dead"), "m1", policy=window(0))
            async with Reader(gate, history, "bot"):
                await eventually(history.drained)
            await gate.add("other", "anna", "x", policy=window(60))
            assert (await gate.flush("other", "anna")).flushed
            for action in (NackAction.RELEASE, NackAction.DEAD_LETTER):
                (batch,) = await gate.pull("other")
                await batch.extend()
                await batch.nack(action)
            assert [dead.batch_id async for dead in gate.dead_letters()] == [batch.id]
            assert len((await gate.batch(batch.id)).messages) == 1
            assert (await gate.status("other", "anna")).last_batch
            assert (await gate.stats()).dead_letters == 1
        assert not [line for line in server.output().splitlines() if '"error"' in line]
