"""The examples of the manual, run as they are against a server with short windows."""

import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Timer

import pytest

from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30
BLOCK = re.compile(r"(?ms)^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$")


@dataclass(frozen=True)
class Example:
    """A program of a page, and what the page says that it prints."""

    page: str
    number: int
    program: str
    printed: list[str]

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(found["kind"], found["text"]) for found in BLOCK.finditer(page.read_text())]


def examples() -> Iterator[Example]:
    for page in sorted((ROOT / "docs").glob("*.md")):
        found = blocks(page)
        for number, (kind, program) in enumerate(found):
            if kind == "python run":
                after, printed = found[number + 1]
                assert after == "text", f"{page.name}: what is printed must follow"
                yield Example(page.stem, number, program, printed.splitlines())


@contextmanager
def running(program: str, folder: Path) -> Generator["subprocess.Popen[str]"]:
    """The program, ended after a while if not before."""
    file = folder / "example.py"
    file.write_text(program)
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-u", file], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    with process:
        alarm = Timer(PATIENCE_S, process.kill)
        alarm.start()
        try:
            yield process
        finally:
            alarm.cancel()
            process.kill()


@pytest.mark.parametrize("example", list(examples()), ids=str)
async def test_an_example_prints_what_the_manual_says(example: Example, tmp_path: Path):
    settings = {"window_delay": "400ms", "window_grace": "0s", "retry_base": "50ms"}
    async with Server(tmp_path / "server", **settings) as server:
        assert "Client()" in example.program
        program = example.program.replace("Client()", f'Client("{server.target}")')
        with running(program, tmp_path) as process:
            assert process.stdout
            # Some examples are bots, which go on.
            printed = [line.rstrip("\n") for line in islice(process.stdout, len(example.printed))]
        assert printed == example.printed, (tmp_path / "errors").read_text()


def test_every_python_block_of_the_manual_is_run():
    pages = {page.name: blocks(page) for page in (ROOT / "docs").glob("*.md")}
    plain = {name for name, found in pages.items() for kind, _ in found if kind == "python"}
    assert plain <= {"push.md"}  # a call of somebody else's package


def test_every_page_is_linked_from_the_manual():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert linked == {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"}
