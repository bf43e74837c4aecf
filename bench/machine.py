"""Where the figures come from."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("tidegate", "grpcio", "protobuf", "uvloop", "redis", "hiredis")


def describe(store: str) -> list[str]:
    """The machine and the versions, one line for each kind."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"{os.cpu_count()} cores of {_processor()}, {_memory_gb():.0f} GB, {_file_system()}",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"{packages}; {store}",
    ]


def load() -> float:
    """Processes that want a processor, as the mean of the last minute."""
    return os.getloadavg()[0]


def crowded() -> str:
    """A warning, if others use this machine, too."""
    busy, cores = load(), os.cpu_count() or 1
    return f"load average {busy:.1f} on {cores} cores before the start" if busy > cores / 4 else ""


def supported() -> bool:
    """Whether the figures can be had here: processes are looked at in Linux's way."""
    return sys.platform == "linux"


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _file_system() -> str:
    """That of the data directories, since it is where the store writes."""
    said = subprocess.run(
        ["df", "--output=fstype", tempfile.gettempdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"data on {said.stdout.split()[-1]}" if said.stdout else "file system unknown"
