"""Servers that start in a fraction of the time: forked from a process that has imported it all.

Each is a process of its own and runs what `tidegate serve` runs; only the imports are shared.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tests.support.servers import Process, Server

_IMPORTED = ("tidegate_server.app", "tidegate_server.cli.main", "tidegate_server.cli.serve")


class Nursery:
    """The process that forks, with notes in `directory`. `packages` come first on its path."""

    def __init__(self, directory: Path, *packages: Path):
        self._codes = directory
        path = [*map(str, packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.forks", directory],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, environ: dict[str, str], log: str) -> "Child":
        """A server with this environment that writes to this file."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"environ": environ, "log": log}), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        return Child(pid, self._codes / str(pid))

    def close(self) -> None:
        """End it. What it has forked is for others to end."""
        self._process.communicate()


@contextlib.contextmanager
def nursery(*packages: Path) -> Generator[Nursery]:
    """A nursery for a while."""
    with tempfile.TemporaryDirectory(prefix="nursery-") as directory:
        one = Nursery(Path(directory), *packages)
        try:
            yield one
        finally:
            one.close()


@cache
def _common() -> Nursery:
    """The nursery of all who need nothing special, till this process ends."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(nursery())


class Child:
    """A forked process, as subprocess.Popen would show it."""

    def __init__(self, pid: int, code: Path):
        self.pid = pid
        self._note = code
        self._code: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            with contextlib.suppress(FileNotFoundError):
                self._code = int(self._note.read_text())
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, waited for so many seconds."""
        waits = select.poll()
        waits.register(self._end, select.POLLIN)
        if not waits.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("tidegate serve", timeout or 0)
        while (code := self.poll()) is None:
            select.select([], [], [], 0.001)
        return code

    def kill(self) -> None:
        """End it as a crash does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._end)


class ForkedServer(Server):
    """A server that comes from a nursery; from the common one unless there is a `home`."""

    def __init__(self, directory: Path, home: Nursery | None = None, **settings: str):
        super().__init__(directory, **settings)
        self._home = home or _common()

    def _launch(self, environ: dict[str, str], log: IO[bytes]) -> Process:
        return self._home.fork(environ, log.name)


def _reap(codes: Path) -> None:
    """Write down how those ended that have ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            note = codes / f"{pid}.new"
            note.write_text(str(os.waitstatus_to_exitcode(status)))
            note.rename(codes / str(pid))


def _serve(request: dict[str, Any]) -> None:
    """Become the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    for number, target in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(target, number)
    os.environ.clear()
    os.environ.update(request["environ"])
    from tidegate_server.cli import main

    try:
        main(["serve"])
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)


def _fork_forever(codes: Path) -> None:
    def reap(*_: object) -> None:
        _reap(codes)

    for module in _IMPORTED:
        import_module(module)
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if not pid:
            _serve(json.loads(line))
        (codes / str(pid)).unlink(missing_ok=True)  # of an earlier process with this number
        print(pid, flush=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


if __name__ == "__main__":
    _fork_forever(Path(sys.argv[1]))
