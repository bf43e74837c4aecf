"""What is measured, as processes: a server with its embedded store, and a bare echo server."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from bench.child import MeasureError
from tidegate.blocking import Client
from tidegate_server.store.embedded import find_binary


class Echo:
    """A running echo server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.target = self._process.stdout.readline().strip()

    def cpu_s(self) -> float:
        """Processor time so far."""
        return cpu_s(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Store:
    """A running store of its own, on a unix socket, with what the embedded one has by default."""

    def __init__(self, *, appendfsync: str = "everysec"):
        self._files = tempfile.TemporaryDirectory(prefix="bench-")
        self.socket = f"{self._files.name}/store.sock"
        options = {"port": "0", "unixsocket": self.socket, "dir": self._files.name, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": appendfsync, "logfile": "/dev/null"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([find_binary(), *words], stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        while not self._answers():
            time.sleep(0.005)

    @property
    def url(self) -> str:
        """The address for a server."""
        return f"unix://{self.socket}"

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise MeasureError("the store does not start")
        try:
            with Redis(unix_socket_path=self.socket) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._files.cleanup()


class Server:
    """A running `tidegate serve` with an empty data directory and, without a URL, its own store.

    `settings` are its own, as in a file: `Server(window_delay="1h")`. `started_s` is the time
    from the start of the process until it served.
    """

    def __init__(self, **settings: str):
        self._files = tempfile.TemporaryDirectory(prefix="bench-")
        self._dir = Path(self._files.name)
        given = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", "log_format": "json"}
        given |= {"data_dir": str(self._dir)} | settings
        environ = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        environ |= {f"TIDEGATE_{name.upper()}": value for name, value in given.items()}
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tidegate", "serve"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=(self._dir / "log").open("wb"),
        )
        serving = self._until_serving()
        self.started_s = time.perf_counter() - began
        self.target, self.store = serving["listen"], serving["store"]
        self.pid = self._process.pid
        lock = self._dir / "store.lock"
        self.store_pid = int(lock.read_text().partition("\n")[0]) if lock.exists() else 0

    def _until_serving(self) -> dict[str, str]:
        while self._process.poll() is None:
            for line in (self._dir / "log").read_text().splitlines():
                if '"serving"' in line:
                    return json.loads(line)
            time.sleep(0.001)
        raise MeasureError(f"the server does not start: {(self._dir / 'log').read_text()}")

    def cpu_s(self) -> float:
        """Processor time so far of the server and, if it is embedded, its store."""
        return cpu_s(self.pid) + (cpu_s(self.store_pid) if self.store_pid else 0)

    def counters(self) -> dict[str, float]:
        """The server's counters."""
        with Client(self.target) as gate:
            return dict(gate.stats().counters)

    def store_memory_bytes(self) -> int:
        """What the store has allocated."""
        with Redis(unix_socket_path=str(self._dir / "store.sock")) as client:
            return client.info("memory")["used_memory"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._files.cleanup()


def cpu_s(pid: int) -> float:
    """Processor time of a process's threads, in seconds and finer than a tick."""
    spent = (path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(map(int, spent)) / 1e9


def rss_mb(pid: int) -> float:
    """The memory of a process that is in the machine's, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
