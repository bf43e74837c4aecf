"""Tidegate as a process of its own: started, killed, hung and ended as an operator would."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, Self

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.stores import eventually

_CANARIES = re.compile(r"payload of |\buser \d+\b")
"""What tests name payloads and conversations; no server may ever write it down."""
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))


class Process(Protocol):
    """What is asked of a process that was started, as subprocess.Popen has it."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class Server:
    """A `tidegate serve` whose files are in `directory`; on a unix socket there unless told else.

    Settings are written as the keywords they have in a file: `Server(tmp_path, window_delay="1s")`.
    Without `store_url` it has an embedded store, whose files stay from one start to the next.
    `async with` starts it. At the end it is told to stop, if it still runs, must end with 0 and
    must leave no process behind; after a failure it is killed. Its log, at the level "debug", must
    not have payloads or names of conversations. `environ` may add to its environment.
    """

    started: ClassVar[list[Process]] = []

    def __init__(self, directory: Path, **settings: str):
        self.dir = directory
        self._settings = {
            "listen": f"unix:{directory}/gate.sock",
            "http_listen": "",
            "data_dir": f"{directory}/data",
            "log_level": "debug",
        } | settings
        self.environ: dict[str, str] = {}
        self._log = directory / "server.log"
        self._process: Process | None = None
        self._log_offset = 0

    @property
    def target(self) -> str:
        """The address for a client. One on port 0 is known once the server serves."""
        listen = self._settings["listen"]
        return self.said("serving")["listen"] if listen.endswith(":0") else listen

    @property
    def http(self) -> str:
        """Where health and metrics are, such as "http://127.0.0.1:4711"."""
        return f"http://127.0.0.1:{self.said('serving')['http']}"

    @property
    def pid(self) -> int:
        assert self._process, "the server is not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start, and wait for nothing."""
        self.dir.mkdir(exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        environ |= self.environ
        environ |= {f"TIDEGATE_{key.upper()}": value for key, value in self._settings.items()}
        with self._log.open("ab") as log:
            self._log_offset = log.tell()
            self._process = self._launch(environ, log)
        self.started.append(self._process)

    def _launch(self, environ: dict[str, str], log: IO[bytes]) -> Process:
        return subprocess.Popen(
            [sys.executable, "-m", "tidegate", "serve"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    async def start(self, **settings: str) -> Self:
        """Start, with other settings if any are given, and wait until its health says SERVING."""
        self._settings |= settings
        self.spawn()
        await self.serves()
        return self

    async def serves(self) -> None:
        """Wait until its health says SERVING."""
        await eventually(self._has_said_serving, within_s=20)
        assert await self.health() == "SERVING"

    def _has_said_serving(self) -> bool:
        assert self.running, f"the server ended: {self.output()}"
        return bool(self.logged("serving"))

    async def health(self, service: str = "") -> str:
        """What the standard health service says of a service."""
        async with grpc.aio.insecure_channel(self.target, _OPTIONS) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            answer = await stub.Check(request, timeout=5, wait_for_ready=True)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def output(self) -> str:
        """All that it has written since its last start."""
        with self._log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event since the last start."""
        found: list[dict[str, Any]] = []
        for line in self.output().splitlines():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == event:
                    found.append(fields)
        return found

    def said(self, event: str) -> dict[str, Any]:
        """The newest of the log's lines of one event."""
        return self.logged(event)[-1]

    async def ended(self, within_s: float = 20) -> int:
        """The exit code, waited for; nothing that it had started stays."""
        assert self._process, "the server is not started"
        code = await asyncio.to_thread(self._process.wait, within_s)
        await eventually(lambda: not self.processes())
        return code

    async def terminate(self) -> int:
        """End it as an operator does; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return await self.ended()

    def strike(self) -> None:
        """End it as a crash does, at this very moment, and wait for nothing."""
        os.kill(self.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """End it as a crash does. What it had started may end a little later."""
        assert self._process
        if self.running:
            self.strike()
        await asyncio.to_thread(self._process.wait)

    def pause(self) -> None:
        """Let it hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """Processes that work in its directory: the embedded store, and who watches over that."""
        listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True)
        lines = [line.strip().partition(" ") for line in listed.stdout.decode().splitlines()]
        return [int(pid) for pid, _, command in lines if f"{self.dir}/" in command]

    def store_pid(self) -> int:
        """The embedded store's process."""
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True
        )
        return int(children.stdout)

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self._end()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind or not self.running:
            await self._end()
        else:
            assert await self.terminate() == 0, self.output()
        if not kind:
            leaked = _CANARIES.search(self._log.read_text(errors="replace"))
            assert not leaked, f"the server's log has {leaked}"

    async def _end(self) -> None:
        """Kill what still runs, also what hangs."""
        if self.running:
            await self.kill()
        await eventually(lambda: not self.processes())


async def refusal(server: Server, within_s: float = 20) -> tuple[int, str]:
    """Start a server that must not start: its exit code, and all that it said."""
    server.spawn()
    code = await server.ended(within_s)
    return code, server.output().strip()
