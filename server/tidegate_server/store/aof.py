"""Makes the file of a store whole that died amid a write.

What is at its end then may be a part of a transaction. A store that is told to load it all the same
forgets that part, but leaves it in the file if it was cut within a command; what it writes behind
it belongs to the same transaction at the next start, and half of a script is done twice
(valkey-io/valkey#4342). So the embedded store is told not to load such a file, and the part is cut
off, by the check that every store's program has within it under another name.
"""

import subprocess
from pathlib import Path

_CHECK = "check-aof"
_PATIENCE_S = 600


def wants_mending(said: str) -> bool:
    """Whether a store that does not start says that this is why."""
    return "Unexpected end of file" in said


def mend(directory: Path, binary: Path) -> bool:
    """Cut off what is no whole transaction at the end. False: it could not be done."""
    product = "redis" if "redis" in binary.name else "valkey"
    try:
        done = subprocess.run(  # noqa: S603 - the program is ours or the operator's
            [f"{product}-{_CHECK}", "--fix", _newest(directory)],
            executable=binary,
            input=b"y\n",
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _newest(directory: Path) -> Path:
    """The file that is written to: the last one that the manifest names, where there is one."""
    folder = directory / "appendonlydir"
    manifest = folder / "appendonly.aof.manifest"
    if not manifest.exists():
        return directory / "appendonly.aof"
    lines = [line.split() for line in manifest.read_text().splitlines()]
    files = [dict(zip(words[::2], words[1::2], strict=False)) for words in lines]
    return folder / [file["file"] for file in files if file.get("type") == "i"][-1]
