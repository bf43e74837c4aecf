"""Small libraries that are loaded before the C library, compiled when they are needed."""

import shutil
import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent / "shim"


def compiler_missing() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    return None if shutil.which("cc") else "there is no C compiler: install gcc"


def compiled(name: str, directory: Path) -> Path:
    """The library of that name, put into the directory."""
    library = directory / f"{name}.so"
    source = _SOURCES / f"{name}.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
