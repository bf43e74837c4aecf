"""A disk with no room for the store's file: nothing that was acknowledged is lost for it."""

import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

from tests.end_to_end.traffic import Reader
from tests.support.history import History
from tests.support.stores import StoreProcess, alive, eventually
from tests.torture.forks import ForkedServer
from tests.torture.load import LEASE
from tests.torture.patience import PatientLoad, settle_in_time
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Batch, Client

_REFUSED = 20
_A_ROUND = 25
_ROOM = 1 << 30


def _mount_missing() -> str | None:
    if os.geteuid() == 0 and Path("/proc/mounts").exists():
        return None
    return "a small disk cannot be mounted here: run as root on Linux"


class _SmallDisk:
    """A file system in memory whose size can be changed at any time."""

    def __init__(self, directory: Path):
        self.dir = directory
        directory.mkdir()

    def fill(self) -> None:
        """Leave no room but in the last page of each file."""
        while not self._mount("remount", self._used()):
            pass  # more was written meanwhile

    def make_room(self) -> None:
        assert self._mount("remount", _ROOM)

    def _used(self) -> int:
        found = os.statvfs(self.dir)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _mount(self, how: str, size: int) -> bool:
        options = f"{how},size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.dir]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    @contextlib.contextmanager
    def mounted(self) -> Generator["_SmallDisk"]:
        assert self._mount("rw", _ROOM), f"cannot mount {self.dir}"
        try:
            yield self
        finally:
            subprocess.run(["umount", "--lazy", self.dir], check=True)


async def _at_everysec(dose: Dose) -> Score:
    with _SmallDisk(dose.directory / "disk").mounted() as disk:
        async with (
            StoreProcess(appendonly="yes", appendfsync="everysec", dir=str(disk.dir)) as store,
            ForkedServer(dose.directory, store_url=store.user_url) as server,
        ):
            return await _fill_and_empty(dose, server, disk)


async def _embedded(dose: Dose) -> Score:
    with _SmallDisk(dose.directory / "data").mounted() as disk:
        async with ForkedServer(dose.directory) as server:
            return await _fill_and_empty(dose, server, disk)


async def _at_fsync(dose: Dose) -> Score:
    """A store with `appendfsync always` ends at the first write that fails."""
    with _SmallDisk(dose.directory / "disk").mounted() as disk:
        async with (
            StoreProcess(appendonly="yes", appendfsync="always", dir=str(disk.dir)) as store,
            ForkedServer(dose.directory, store_url=store.user_url, durability="fsync") as server,
        ):

            async def ended(load: PatientLoad) -> None:
                pid = store.pid
                await eventually(lambda: not alive(pid))

            return await _fill_and_empty(dose, server, disk, shows=ended, restart=store.restart)


async def _refused(load: PatientLoad) -> None:
    before = load.refused
    await eventually(lambda: load.refused >= before + _REFUSED, within_s=20)


async def _nothing() -> None:
    pass


async def _fill_and_empty(
    dose: Dose,
    server: ForkedServer,
    disk: _SmallDisk,
    *,
    shows: Callable[[PatientLoad], Awaitable[None]] = _refused,
    restart: Callable[[], Awaitable[None]] = _nothing,
) -> Score:

    async def a_round(history: History, instance: str, faults: int) -> None:
        async def answer(batch: Batch) -> None:
            await settle_in_time(history, batch)

        async with (
            Client(server.target) as gate,
            Reader(gate, history, instance, answer=answer, lease=LEASE),
        ):
            async with PatientLoad([gate], history, instance) as load:
                for _ in range(faults):
                    await load.more(dose.between)
                    disk.fill()
                    await shows(load)
                    disk.make_room()
                    await restart()
                await load.more(1)
            await eventually(history.drained, within_s=30)

    return add_up(await in_rounds(dose, _A_ROUND, a_round), faults=dose.faults)


LINES = (
    Line(
        "disk full at everysec",
        _at_everysec,
        short=(1, 200),
        long=(50, 20_000),
        missing=_mount_missing,
        expected="adds refused, nothing lost, goes on by itself when there is room",
    ),
    Line(
        "disk full, embedded store",
        _embedded,
        short=(1, 200),
        long=(50, 20_000),
        missing=_mount_missing,
        expected="adds refused, nothing lost, goes on by itself when there is room",
    ),
    Line(
        "disk full at fsync",
        _at_fsync,
        short=(1, 200),
        long=(50, 20_000),
        missing=_mount_missing,
        expected="the store ends, nothing lost when it is started again with room",
    ),
)
