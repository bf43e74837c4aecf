"""For all tests."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.servers import Server

# Started in the background of a shell, a process ignores Ctrl-C, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # autouse
    yield
    left = [process for process in Server.started if process.poll() is None]
    for process in left:
        process.kill()
        process.wait()
    assert not left, "a test has left its server running"
