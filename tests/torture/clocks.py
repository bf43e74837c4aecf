"""A clock that can be set while the process runs."""

import sys
from pathlib import Path

from tests.torture.preload import compiled


class WallClock:
    """The time of day of the processes that run with `environ`. What counts seconds goes on."""

    def __init__(self, directory: Path):
        self._file = directory / "clock"
        self.set(0)
        self.environ = {
            "LD_PRELOAD": str(compiled("clock", directory)),
            "CLOCK": str(self._file),
        }

    def set(self, ahead_s: int) -> None:
        """Have it be so far ahead of the true time."""
        with self._file.open("r+b" if self._file.exists() else "xb") as file:
            file.write(ahead_s.to_bytes(8, sys.byteorder, signed=True))
