"""`python -m tests.fuzz`: walk through the pure targets for minutes.

With atheris, which is no dependency, the walk is guided by what it covers; without it, it is by
chance. What fails is printed with its bytes, in hexadecimal: `--again TARGET BYTES` repeats it.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GUIDED = "--guided"
_LONGEST = 300
"""Bytes of one input."""


def main() -> None:
    """Do what the arguments ask for; the exit code is 1 if a target failed."""
    if _GUIDED in sys.argv:
        _guided(sys.argv[sys.argv.index(_GUIDED) + 1])
        return
    from tests.fuzz.pure import TARGETS  # after the lines above: atheris must see the imports

    options = _options(list(TARGETS))
    if options.again:
        name, data = options.again
        TARGETS[name](bytes.fromhex(data))
        return
    names = options.target or list(TARGETS)
    seconds = max(1, round(options.minutes * 60 / len(names)))
    there = importlib.util.find_spec("atheris") is not None
    if not there:
        print("atheris is not installed, so the walk goes by chance: pip install atheris")
    walk = _guide if there else _stroll
    failed = [name for name in names if not walk(name, seconds)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="*", help=f"some of {', '.join(names)}; none: all")
    parser.add_argument("--minutes", type=float, default=10, help="for all together")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "BYTES"), help="repeat a failure")
    return parser.parse_args()


def _stroll(name: str, seconds: int) -> bool:
    from tests.fuzz.pure import TARGETS

    tried, ends_s = 0, time.monotonic() + seconds
    while time.monotonic() < ends_s:
        data = os.urandom(int.from_bytes(os.urandom(2)) % _LONGEST)
        try:
            TARGETS[name](data)
        except Exception:
            print(f"{name} fails: python -m tests.fuzz --again {name} {data.hex()}")
            raise
        tried += 1
    print(f"{name}: {tried:,} inputs, none failed")
    return True


def _guide(name: str, seconds: int) -> bool:
    """The same in a process of its own: libFuzzer ends the one that it runs in."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        words = ("-m", "tests.fuzz", _GUIDED, name, f"-max_total_time={seconds}")
        limits = (f"-max_len={_LONGEST}", "-timeout=20", f"-artifact_prefix={directory}/")
        process = subprocess.run(
            [sys.executable, *words, *limits], capture_output=True, text=True, check=False
        )
        found = [path.read_bytes().hex() for path in Path(directory).iterdir()]
    if process.returncode == 0:
        done = [line for line in process.stderr.splitlines() if line.startswith("Done ")]
        print(f"{name}: {done[-1] if done else 'done'}")
        return True
    print(process.stdout[-4_000:], process.stderr[-1_000:])
    for data in found:
        print(f"{name} fails: python -m tests.fuzz --again {name} {data}")
    return False


def _guided(name: str) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["tidegate_server"]):
        from tests.fuzz.pure import TARGETS
    words = [word for word in sys.argv if word.startswith("-") and word != _GUIDED]
    atheris.Setup([sys.argv[0], *words], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
