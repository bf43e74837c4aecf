"""Peers are installed on first use, beside the project's own things and not into them."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidegate-bench"
_PYTHON_PEERS = (
    "saq==0.26.4",
    "arq==0.28.0",
    "pydocket==0.26.0",
    "uvloop==0.23.0",
    "hiredis==3.5.0",
)
_INSTALL_S = 300


class LeftOut(Exception):
    """A peer that cannot be had on this machine. Its text says why."""


@cache
def bullmq() -> tuple[str, ...]:
    """The command of BullMQ's jobs."""
    node, npm = _program("node", "BullMQ"), _program("npm", "BullMQ")
    sources = [_HERE / "node" / name for name in ("package.json", "bullmq.mjs")]
    install = (npm, "install", "--no-audit", "--no-fund", "--silent")
    return node, str(_installed("BullMQ", sources, "bullmq.mjs", lambda _: [install]))


@cache
def asynq() -> tuple[str, ...]:
    """The command of asynq's jobs."""
    go = _program("go", "asynq")
    sources = [_HERE / "go" / name for name in ("main.go", "go.mod", "go.sum")]
    return (
        str(_installed("asynq", sources, "peer", lambda _: [(go, "build", "-o", "peer", ".")])),
    )


@cache
def python_queues() -> tuple[str, ...]:
    """The command of the jobs of saq, arq and docket."""

    def install(folder: Path) -> list[Sequence[str]]:
        pip = (str(folder / "env/bin/pip"), "install", "--quiet", *_PYTHON_PEERS)
        return [(sys.executable, "-m", "venv", "env"), pip]

    queues = _installed("saq, arq and docket", [_HERE / "queues.py"], "queues.py", install)
    return str(queues.parent / "env/bin/python"), str(queues)


def _program(name: str, peer: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise LeftOut(f"{peer} is left out: there is no {name} on this machine")
    return found


def _installed(
    peer: str,
    sources: Sequence[Path],
    result: str,
    steps: Callable[[Path], Sequence[Sequence[str]]],
) -> Path:
    """The result of the steps, in a folder that is named after what is in the sources."""
    content = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources))
    folder = _CACHE / f"{sources[0].stem}-{content.hexdigest()[:12]}"
    done = folder / "installed"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(source, folder)
        for step in steps(folder):
            _do(peer, step, folder)
        done.touch()
    return folder / result


def _do(peer: str, step: Sequence[str], folder: Path) -> None:
    try:
        ran = subprocess.run(step, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeftOut(f"{peer} is left out: it cannot be installed ({error})") from None
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise LeftOut(f"{peer} is left out: it cannot be installed ({last[0]})")
