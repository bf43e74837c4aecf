"""A server for one command alone: a process of its own, with a store and files of its own."""

import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import tidegate
from tidegate_server.cli.endings import Failure

_START_S = 30.0
_STOP_S = 20.0
_POLL_S = 0.02
_LONGEST_SOCKET_PATH = 100


class OwnServer:
    """A server at `address` from the begin of `async with` to its end, on a unix socket.

    With `data_dir` the store's files are there and stay. Nothing else stays. `settings` are the
    server's, such as `retry_base="200ms"`; the environment's do not count.
    """

    def __init__(self, data_dir: Path | None = None, **settings: str):
        self._data_dir = data_dir
        self._settings = settings
        self._stack = AsyncExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()
        self.address = ""

    async def __aenter__(self) -> Self:
        """Start it. Raises `Failure` if it does not start."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(_folder()))
            self.address, self._log = f"unix:{folder}/gate.sock", folder / "server.log"
            self._process = self._spawn(self._data_dir or folder / "data")
            stack.push_async_callback(self._stop, self._process)
            await self._until_ready(self._process)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def must_live(self) -> None:
        """Raises `Failure` if the server has ended."""
        if self._process and self._process.poll() is not None:
            raise Failure(f"the server that was started for this has ended: {self._last_words()}")

    def _spawn(self, data_dir: Path) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tidegate", "serve"],
                env=_environment(self._settings, self.address, data_dir),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is this command's, which ends it in its turn
            )

    async def _until_ready(self, process: subprocess.Popen[bytes]) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + _START_S
        while process.poll() is None and clock() < until:
            if self._listens() and await _answers(self.address):
                return
            await asyncio.sleep(_POLL_S)
        raise Failure(f"no server could be started: {self._last_words()}")

    def _listens(self) -> bool:
        return Path(self.address.removeprefix("unix:")).exists()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("tidegate: ") if said else "it said nothing"

    async def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _answers(address: str) -> bool:
    try:
        async with tidegate.Client(address) as gate:
            await gate.server_info()
    except (tidegate.Unavailable, tidegate.DeadlineExceeded):
        return False
    return True


def _folder() -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder with a path short enough for a socket in it."""
    folder = tempfile.TemporaryDirectory(prefix="tidegate-", ignore_cleanup_errors=True)
    if len(os.fsencode(folder.name)) + len("/gate.sock") <= _LONGEST_SOCKET_PATH:
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="tidegate-", dir="/tmp", ignore_cleanup_errors=True)


def _environment(settings: dict[str, str], address: str, data_dir: Path) -> dict[str, str]:
    from tidegate_server.config.sources import ALIASES

    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TIDEGATE_") and name not in ALIASES
    }
    own = {
        "listen": address,
        "http_listen": "",
        "data_dir": str(data_dir),
        "log_level": "warning",
        **settings,
    }
    return inherited | {f"TIDEGATE_{name.upper()}": value for name, value in own.items()}
