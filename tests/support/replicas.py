"""A primary with replicas, and three Sentinels that watch over them, as throw-away processes."""

import secrets
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from redis.exceptions import RedisError

from tests.support.stores import StoreProcess, eventually

SERVICE = "main"
"""What the Sentinels call the primary that they watch."""

# A replica is to be there at once: by default a full copy begins 5 s late.
_QUICK = {"repl_diskless_sync_delay": "0", "repl_ping_replica_period": "1"}
_SENTINELS = 3
_DOWN_AFTER_MS = 500


class ReplicatedStore:
    """A primary and its replicas, all linked when `async with` begins.

    Options are those of every process: `ReplicatedStore(min_replicas_to_write="1")`. The primary
    can be killed, paused and started again by its `StoreProcess`, and so can each replica.
    """

    def __init__(self, binary: Path | None = None, *, replicas: int = 1, **options: str):
        self._binary = binary
        self._options = {"bind": "127.0.0.1"} | _QUICK | options
        self._stack = AsyncExitStack()
        self.primary = self._process()
        self.replicas = [self._process() for _ in range(replicas)]

    @property
    def url(self) -> str:
        """The primary's own URL."""
        return self.primary.url

    async def add_replica(self, of: StoreProcess | None = None) -> StoreProcess:
        """Start one more process, empty, as a replica of the primary or of another process."""
        replica = self._process()
        await self._stack.enter_async_context(replica)
        await follow(replica, of or self.primary)
        self.replicas.append(replica)
        return replica

    async def linked(self) -> None:
        """Wait until the primary has every replica that is in `replicas`, and they confirm writes.

        A new one may take a second for its first word.
        """
        count = len(self.replicas)
        await eventually(lambda: has_replicas(self.primary, count))
        if count == 0:
            return
        async with self.primary.client() as client:
            await client.set("linked", "1")
            await client.delete("linked")
            assert await client.wait(count, 5_000) >= count

    def _process(self) -> StoreProcess:
        return StoreProcess(self._binary, tcp=True, port=0, **self._options)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for process in (self.primary, *self.replicas):
                await stack.enter_async_context(process)
            for replica in self.replicas:
                await follow(replica, self.primary)
            await self.linked()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


class WatchedStore(ReplicatedStore):
    """The same with three Sentinels, which agree by two that a primary is gone.

    They take a primary that is silent for half a second for dead, and have a replica in its place
    about two seconds after its death. `primary` stays the process that was it at first.
    """

    def __init__(self, binary: Path | None = None, *, replicas: int = 1, **options: str):
        super().__init__(binary, replicas=replicas, **options)
        self.sentinels: list[SentinelProcess] = []

    @property
    def url(self) -> str:
        """The URL by which the primary of the moment is found."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def current(self) -> StoreProcess:
        """The process that most Sentinels name as the primary."""
        named = [await sentinel.primary_port() for sentinel in self.sentinels]
        found = max(named, key=named.count)
        return next(p for p in (self.primary, *self.replicas) if p.port == found)

    async def failed_over(self, before: StoreProcess) -> StoreProcess:
        """Wait until most Sentinels name another primary than `before`, and it is one."""

        async def is_other() -> bool:
            now = await self.current()
            return now is not before and (await _info(now)).get("role") == "master"

        await eventually(is_other, within_s=20)
        return await self.current()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.sentinels = _acquainted(self._binary, self.primary, self.replicas)
        try:
            for sentinel in self.sentinels:
                await self._stack.enter_async_context(sentinel)
            for sentinel in self.sentinels:
                await eventually(sentinel.sees_all)
        except BaseException:
            await self._stack.aclose()
            raise
        return self


class SentinelProcess(StoreProcess):
    """A Sentinel. It knows the other ones from the beginning, so they need not find each other."""

    def __init__(self, binary: Path | None = None):
        super().__init__(binary, tcp=True)
        self.id = secrets.token_hex(20)
        self._replicas = 0

    def write_config(
        self,
        primary: StoreProcess,
        replicas: Sequence[StoreProcess],
        sentinels: Sequence["SentinelProcess"],
    ) -> None:
        """Say whom to watch; before the start."""
        self._replicas = len(replicas)
        others = [other for other in sentinels if other is not self]
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"unixsocket {self.dir}/store.sock",
            f"dir {self.dir}",
            f"logfile {self.dir}/store.log",
            f"sentinel myid {self.id}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 3000",
            *(f"sentinel known-replica {SERVICE} 127.0.0.1 {r.port}" for r in replicas),
            *(f"sentinel known-sentinel {SERVICE} 127.0.0.1 {o.port} {o.id}" for o in others),
        ]
        self._config.write_text("\n".join(lines) + "\n")

    async def primary_port(self) -> int:
        """The port of the primary that it names."""
        return int((await self._says())["port"])

    async def sees_all(self) -> bool:
        """Whether it has heard of, and from, the primary, the replicas and its fellows."""
        said = await self._says()
        return (
            said["flags"] == "master"
            and int(said["num-slaves"]) == self._replicas
            and int(said["num-other-sentinels"]) == _SENTINELS - 1
        )

    @property
    def _config(self) -> Path:
        return self.dir / "sentinel.conf"

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [self._binary, self._config, "--sentinel"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    async def _says(self) -> dict[str, str]:
        async with self.client() as client:
            client.response_callbacks.clear()
            said: Any = await client.execute_command("SENTINEL MASTER", SERVICE)
        return {name.decode(): value.decode() for name, value in said.items()}


def _acquainted(
    binary: Path | None, primary: StoreProcess, replicas: Sequence[StoreProcess]
) -> list[SentinelProcess]:
    sentinels = [SentinelProcess(binary) for _ in range(_SENTINELS)]
    for sentinel in sentinels:
        sentinel.write_config(primary, replicas, sentinels)
    return sentinels


async def follow(replica: StoreProcess, primary: StoreProcess) -> None:
    """Make a process a replica of another one, as an operator does."""
    async with replica.client() as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))


async def has_replicas(primary: StoreProcess, count: int) -> bool:
    """Whether so many replicas have the primary's data and follow it."""
    info = await _info(primary)
    lines = [value for name, value in info.items() if name.removeprefix("slave").isdecimal()]
    return sum(line["state"] == "online" for line in lines) == count


async def _info(process: StoreProcess) -> dict[str, Any]:
    try:
        async with process.client() as client:
            return await client.info("replication")
    except RedisError:
        return {}
