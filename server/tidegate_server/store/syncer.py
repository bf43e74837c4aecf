"""Has what the embedded store wrote put on the disk, about once a second.

The store itself only writes, into the system's memory, before it answers. So an end of the store
loses nothing that it has acknowledged, and a power cut what the last second or so brought.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tidegate_server.logs import get_logger

_log = get_logger("tidegate.store")

_EVERY_MS = 1_000
# What the file system needs to give the data back, and no more; macOS has but the whole of it.
_put_on_disk = getattr(os, "fdatasync", os.fsync)


class Syncer:
    """Watches the append-only files of a data directory. Files that did not grow cost a look."""

    def __init__(self, data_dir: Path):
        self._dir = data_dir
        self._synced: dict[int, int] = {}

    async def run(self) -> None:
        """Sync, rest, sync again, until cancelled. A disk that fails is logged each time."""
        while True:
            await asyncio.sleep(_EVERY_MS / 1000)
            try:
                await self.sync()
            except OSError as error:
                _log.error(
                    "the embedded store's file cannot be put on the disk, a power cut may lose "
                    "more than the last second",
                    error=error.strerror,
                )

    async def sync(self) -> None:
        """Return when all that is written by now is on the disk.

        Raises:
            OSError: The disk says that it is not.
        """
        files = dict(self._files())
        self._synced = {inode: self._synced.get(inode, -1) for inode, _ in files.values()}
        for path, (inode, size) in files.items():
            if size != self._synced[inode]:
                await asyncio.to_thread(_sync, path)
                self._synced[inode] = size

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """The files that the store appends to, each with its inode and size.

        Since version 7 there is a new one for each rewrite; what is in the others the store has
        synced. Before, a rewrite puts another file in the place of the only one.
        """
        for path in (*self._dir.glob("appendonlydir/*.incr.aof"), self._dir / "appendonly.aof"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                yield path, (found.st_ino, found.st_size)


def _sync(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # A rewrite has put its content elsewhere.
        descriptor = os.open(path, os.O_WRONLY)
        try:
            _put_on_disk(descriptor)
        finally:
            os.close(descriptor)
