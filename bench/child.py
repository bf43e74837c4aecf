"""Load in processes of their own, so that it does not share a loop with what is measured.

A child makes itself ready and says so, waits for the word to go, works, and prints its result.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop

Job = Callable[..., Awaitable[dict[str, Any]]]
LIMIT = 0.9
"""A load generator that is busy for this share of the time may be what is measured."""


class MeasureError(Exception):
    """A measurement that came to no figure. Its text says why."""


class Child:
    """One job in a process: `python -m bench.<module> <job>`, with its keyword arguments.

    A `command` is another program that does jobs in the same manner.
    """

    def __init__(self, module: str, job: str, *, command: Sequence[str] = (), **options: Any):
        command = command or (sys.executable, "-m", f"bench.{module}")
        self._process = subprocess.Popen(
            [*command, job, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._name = f"{module} {job}"

    def wait_ready(self) -> None:
        """Return when it has connected and warmed up."""
        self._read()

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it found, with `busy`, the share of the time that its processor worked."""
        return json.loads(self._read())

    def close(self) -> None:
        """End it, if it has not ended by itself."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise MeasureError(f"the load generator `{self._name}` failed, as it said above")
        return line


@contextmanager
def made_ready(*children: Child) -> Generator[Callable[[], list[dict[str, Any]]]]:
    """Children that are ready; the function begins all at once and returns their results."""

    def go() -> list[dict[str, Any]]:
        for child in children:
            child.go()
        return [child.result() for child in children]

    try:
        for child in children:
            child.wait_ready()
        yield go
    finally:
        for child in children:
            child.close()


def results_of(*children: Child) -> list[dict[str, Any]]:
    """Begin all at the same moment, and return their results."""
    with made_ready(*children) as go:
        return go()


def limited(results: Sequence[Mapping[str, Any]]) -> str:
    """A note, if a load generator worked so hard that it may be the limit."""
    busy = max(result["busy"] for result in results)
    return f"the load generator is the limit: it is {busy:.0%} busy" if busy >= LIMIT else ""


class Run:
    """The child's side of the start, and its own processor time from there on."""

    def __init__(self) -> None:
        self._cpu_s = self._began_s = 0.0

    async def start(self) -> None:
        """Say that all is ready, and wait for the word. Its own garbage shall not be measured."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 100, 100)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        self._cpu_s, self._began_s = time.process_time(), time.perf_counter()

    def busy(self) -> float:
        """The share of the time since the start that this process worked."""
        return (time.process_time() - self._cpu_s) / (time.perf_counter() - self._began_s)


def main(jobs: Mapping[str, Job]) -> None:
    """The child's whole life."""
    run = Run()

    async def work() -> dict[str, Any]:
        result = await jobs[sys.argv[1]](run, **json.loads(sys.argv[2]))
        return result | {"busy": run.busy()}

    print(json.dumps(uvloop.run(work())), flush=True)
