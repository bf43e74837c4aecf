"""The command line as people call it, and a server for it."""

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

import tidegate.blocking
from tests.support.servers import Server
from tidegate_server.cli.main import main

PATIENCE_S = 60
LOOKS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PY_COLORS")


def environment(**settings: str) -> dict[str, str]:
    """This process's, without what speaks to Tidegate or changes how things look."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TIDEGATE_", "GITHUB_")) and name not in LOOKS
    }
    return kept | settings


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.out.splitlines() if line.strip()]


def run(*arguments: str, stdin: str = "", **settings: str) -> Ended:
    """Run `tidegate` to its end, piped. It never shows a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(**settings),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def objects(ended: Ended) -> list[dict[str, Any]]:
    """What a command that went well has said with --json."""
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


class Call(Protocol):
    """As `run`, and quicker: in this process."""

    def __call__(self, *arguments: str, stdin: str = "", **settings: str) -> Ended: ...


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    log = logging.getLogger("tidegate")
    handlers, propagate = list(log.handlers), log.propagate
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def called(*arguments: str, stdin: str = "", **settings: str) -> Ended:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in settings.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main(arguments)
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, said.out, said.err)

    yield called
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    log.handlers[:], log.propagate = handlers, propagate


@contextmanager
def running(*arguments: str, **settings: str) -> Generator["subprocess.Popen[str]"]:
    """`tidegate` in the background, gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tidegate", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**settings),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for a module; each test has instances of its own."""
    started = Server(tmp_path_factory.mktemp("cli"), retry_base="100ms")
    asyncio.run(started.start())
    yield started
    assert asyncio.run(started.terminate()) == 0


@pytest.fixture
def instance(request: pytest.FixtureRequest) -> str:
    """One for each test."""
    return str(request.node.name)[:100].replace("[", ".").rstrip("]")


@pytest.fixture
def on(server: Server) -> dict[str, str]:
    """What makes a command go to the server."""
    return {"TIDEGATE_ADDRESS": server.target}


@pytest.fixture
def gate(server: Server) -> Iterator[tidegate.blocking.Client]:
    with tidegate.blocking.Client(server.target) as connected:
        yield connected
