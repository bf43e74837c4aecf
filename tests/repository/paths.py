"""The project's own files."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "client" / "tidegate" / "v1"
IGNORED = {".git", ".venv", "__pycache__", "node_modules", "dist"}


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that belongs to the project: what git has or would take, else all there is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return tuple(p for n in listed.stdout.split("\0") if n and (p := ROOT / n).is_file())
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return tuple(p for p in found if not IGNORED & set(p.relative_to(ROOT).parts))


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def table(document: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed `first`, without marks of code."""
    lines = iter((ROOT / document).read_text().splitlines())
    assert any(line.startswith(f"| {first} |") for line in lines), f"{document} has no such table"
    next(lines)
    return list(_rows(lines))


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [re.sub("`", "", cell).strip() for cell in line.strip("|").split("|")]
