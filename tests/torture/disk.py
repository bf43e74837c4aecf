"""A disk whose power can be cut: of each file, only what had been synced is there afterwards.

A process that runs with `environ` notes each of its syncs, by a small library that is loaded
before the C library. Names of files are taken to be on the disk at once.
"""

import os
from pathlib import Path

from tests.torture.preload import compiled


class Disk:
    """Files below `files`, and what of them is synced. `directory` is for the library's own."""

    def __init__(self, directory: Path):
        self._record = directory / "synced"
        self._record.touch()
        library = compiled("synced", directory)
        self.environ = {"LD_PRELOAD": str(library), "SYNCED": str(self._record)}

    def cut(self, files: Path) -> int:
        """Take away what was not synced, once the writers are dead. The number of bytes lost.

        A file of which nothing is known was never synced, so all of it goes.
        """
        synced = self._synced()
        gone = 0
        for path in [*files.rglob("*aof*"), *files.rglob("*.rdb")]:
            if path.is_file():
                found = path.stat()
                kept = min(found.st_size, synced.get(found.st_ino, 0))
                os.truncate(path, kept)
                gone += found.st_size - kept
        return gone

    def _synced(self) -> dict[int, int]:
        """The newest length by inode. A file that was cut short grows from there again."""
        lines = self._record.read_text().splitlines()
        return {int(inode): int(length) for inode, length in map(str.split, lines)}
