"""Files that may be replaced while the server runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from tidegate_server.logs import get_logger

_Value = TypeVar("_Value")
_Stamp = tuple[tuple[int, int, int] | None, ...]

_log = get_logger("tidegate.config")


class Watched(Generic[_Value]):
    """What `files` hold, such as "certificate": `value`, read by `read` and again on changes.

    `read` raises `ValueError` for what cannot be used; at first that is the caller's. Later the old
    value stays, and the log has one sentence.
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], _Value]):
        self._what = what
        self._files = files
        self._read = read
        self._taken = self._seen = self._refused = self._stamp()
        self.value = read()

    def look(self) -> bool:
        """Read the files if they have changed. True: there is a new value.

        What has changed since the last look is left for the next: who writes it may not be done.
        """
        stamp = self._stamp()
        if stamp in (self._taken, self._refused):
            return False
        if stamp != self._seen:
            self._seen = stamp
            return False
        return self._take(stamp)

    def _take(self, stamp: _Stamp) -> bool:
        try:
            value = self._read()
        except ValueError as error:
            self._refused = stamp
            where = ", ".join(map(str, self._files))
            text = f"the new {self._what} cannot be used, the old stays: it must be {error}"
            _log.error(text, files=where)
            return False
        if self._stamp() != stamp:
            return False
        self.value, self._taken = value, stamp
        _log.info(f"the {self._what} has been replaced")
        return True

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp_of, self._files))


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
