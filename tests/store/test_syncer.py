import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.support.stores import StoreProcess, alive, binaries, eventually
from tidegate_server.store import syncer
from tidegate_server.store.embedded import EmbeddedStore
from tidegate_server.store.syncer import Syncer

each_binary = pytest.mark.parametrize(
    "binary", [pytest.param(path, id=name) for name, path in binaries()]
)

# A disk on which the syncs of a background thread take long, as on a busy one.
SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

static int slowly(const char *name, int fd) {
    if (syscall(SYS_gettid) != getpid()) sleep(3);
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return sync(fd);
}
int fsync(int fd) { return slowly("fsync", fd); }
int fdatasync(int fd) { return slowly("fdatasync", fd); }
"""
LONG_ENOUGH_S = 1.7
"""A store that syncs by itself begins within a second, and holds back writes for two."""


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    if not compiler or not Path("/proc/self/task").exists():
        pytest.skip("the disk is made slow with a C compiler, on Linux; here is none")
    source, library = tmp_path / "slow_disk.c", tmp_path / "slow_disk.so"
    source.write_text(SLOW_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of the files that were put on the disk."""
    inodes: list[int] = []
    put_on_disk = syncer._put_on_disk

    def note(descriptor: int) -> None:
        inodes.append(os.fstat(descriptor).st_ino)
        put_on_disk(descriptor)

    monkeypatch.setattr(syncer, "_put_on_disk", note)
    return inodes


def client_of(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0))


async def acknowledged_until(url: str, pid: int) -> int:
    """Write for a while, then kill the store: how many writes it had acknowledged."""
    count = 0
    asyncio.get_running_loop().call_later(LONG_ENOUGH_S, os.kill, pid, signal.SIGKILL)
    async with client_of(url) as client:
        try:
            while True:
                await client.rpush("row", count)
                count += 1
        except (RedisError, OSError):
            return count


async def is_up(url: str) -> bool:
    async with client_of(url) as client:
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False


async def length(url: str) -> int:
    async with client_of(url) as client:
        return await client.llen("row")


@each_binary
async def test_kill_9_while_the_disk_is_busy_loses_nothing_acknowledged(
    tmp_path: Path, binary: Path, slow_disk: None
):
    store = EmbeddedStore(tmp_path / "data", binary=binary)
    await store.start()
    try:
        first = store.pid
        assert first
        acknowledged = await acknowledged_until(store.url, first)
        await eventually(lambda: store.pid not in (None, first))
        await eventually(lambda: is_up(store.url))
        assert acknowledged > 100
        assert await length(store.url) >= acknowledged
    finally:
        await store.stop()


async def test_the_same_fault_shows_the_loss_of_a_store_that_syncs_by_itself(slow_disk: None):
    store = StoreProcess(appendonly="yes", appendfsync="everysec")
    async with store:
        acknowledged = await acknowledged_until(store.url, store.pid)
        await eventually(lambda: not alive(store.pid))
        await store.kill()
        await store.start()
        assert await length(store.url) < acknowledged


@each_binary
async def test_what_was_written_is_synced_once_and_again_after_more(
    binary: Path, synced: list[int]
):
    async with StoreProcess(binary, appendonly="yes", appendfsync="no") as store:
        mine = Syncer(store.dir)
        async with store.client() as client:
            await client.set("a", "1")
            await mine.sync()
            await mine.sync()
            assert len(synced) == 1
            await client.set("a", "2")
            await mine.sync()
            assert len(synced) == 2


@each_binary
async def test_the_file_that_follows_a_rewrite_is_synced(binary: Path, synced: list[int]):
    async with StoreProcess(binary, appendonly="yes", appendfsync="no") as store:
        mine = Syncer(store.dir)
        async with store.client() as client:
            await client.set("a", "1")
            await mine.sync()
            await client.bgrewriteaof()
            await eventually(lambda: is_rewritten(client))
            await client.set("a", "2")
            await mine.sync()
        assert len(synced) == 2
        assert synced[1] != synced[0]
        assert synced[1] in {path.stat().st_ino for path in store.dir.rglob("*.aof")}


async def is_rewritten(client: Redis) -> bool:
    info = await client.info("persistence")
    return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


async def test_a_running_store_is_synced_without_being_asked(tmp_path: Path, synced: list[int]):
    store = EmbeddedStore(tmp_path)
    await store.start()
    try:
        async with client_of(store.url) as client:
            await client.set("a", "1")
        await eventually(lambda: bool(synced))
    finally:
        await store.stop()


async def test_a_disk_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []

    def fail(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(syncer, "_put_on_disk", fail)
    monkeypatch.setattr(syncer, "_EVERY_MS", 1)
    (tmp_path / "appendonly.aof").write_text("something")
    task = asyncio.create_task(Syncer(tmp_path).run())
    await eventually(lambda: len(tried) >= 3)
    task.cancel()
    await asyncio.wait([task])
