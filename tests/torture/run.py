"""Runs lines as processes of their own, a few at a time, and keeps what came out in a file."""

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.score import Dose, Line, Score

RESULTS = Path(".torture/results.json")
_MOST_SENTENCES = 20


@dataclass(slots=True)
class Result:
    """What became of a line. Without a score it failed, or is missing on this machine."""

    name: str
    expected: str
    seed: int
    faults: int
    messages: int
    seconds: float = 0.0
    score: Score | None = None
    failure: str = ""
    missing: str = ""

    @property
    def holds(self) -> bool:
        """Whether it was run and shows what it is there to show."""
        return self.score is not None and self.score.holds


@dataclass(slots=True)
class Going:
    """A line under way."""

    result: Result
    directory: Path
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> tuple[int, int]:
        """Faults and acknowledged messages so far, as the line told last."""
        try:
            faults, messages = self.directory.with_suffix(".progress").read_text().split()
        except (OSError, ValueError):
            return 0, 0
        return int(faults), int(messages)


class Run:
    """A run over lines. `results` grows, and is written to `keep` after each.

    `about` says in words which doses these are.
    """

    def __init__(self, planned: Sequence[tuple[Line, Dose]], *, lanes: int, keep: Path, about: str):
        self.results: list[Result] = []
        self.going: list[Going] = []
        self.planned = planned
        self._lanes = asyncio.Semaphore(lanes)
        self._keep = keep
        self._about = about

    async def run(self) -> None:
        """Run all; a line that fails stops no other one."""
        async with asyncio.TaskGroup() as group:
            for line, dose in self.planned:
                group.create_task(self._lane(line, dose))
        for home in {dose.directory.parent for _, dose in self.planned}:
            with contextlib.suppress(OSError):  # what failed is kept, to be looked at
                home.rmdir()

    async def _lane(self, line: Line, dose: Dose) -> None:
        result = Result(line.name, line.expected, dose.seed, dose.faults, dose.messages)
        result.missing = line.missing() or ""
        if not result.missing:
            async with self._lanes:
                dose.directory.mkdir(parents=True)
                going = Going(result, dose.directory)
                self.going.append(going)
                await _run_apart(result, dose.directory)
                result.seconds = time.monotonic() - going.begun_s
                self.going.remove(going)
        self.results.append(result)
        order = [line.name for line, _ in self.planned]
        self.results.sort(key=lambda one: order.index(one.name))
        save(self.results, self._keep, about=self._about)


async def _run_apart(result: Result, directory: Path) -> None:
    words = ("--apart", directory, result.name, "--seed", str(result.seed))
    doses = ("--faults", str(result.faults), "--messages", str(result.messages))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.torture", *words, *doses),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it may have left behind
        await process.wait()
    if process.returncode == 0:
        result.score = score_of(json.loads(out.splitlines()[-1]))
        shutil.rmtree(directory, ignore_errors=True)
        directory.with_suffix(".progress").unlink(missing_ok=True)
    else:
        (directory / "failure").write_bytes(err)
        said = err.decode(errors="replace").strip().rpartition("\n")[2]
        result.failure = f"{said or 'ended'}; see {directory}"


def run_here(line: Line, dose: Dose) -> None:
    """The other side: run one line in this process, and print its score."""
    logging.getLogger("tidegate").setLevel(logging.CRITICAL)
    random.seed(dose.seed)
    try:
        score = asyncio.run(_awaited(line, dose))
    except Exception as error:
        traceback.print_exc()
        sys.exit(_reason(error))
    fields = asdict(score) | {"contradictions": score.contradictions[:_MOST_SENTENCES]}
    print(json.dumps(fields))


async def _awaited(line: Line, dose: Dose) -> Score:
    return await line.run(dose)


def _reason(error: BaseException) -> str:
    """What went wrong, and where in the line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    at = [frame for frame in frames if "torture" in frame.filename] or frames
    where = f"{Path(at[-1].filename).name}:{at[-1].lineno}, {at[-1].line}" if at else ""
    said = str(error).replace("\n", " ")
    return f"{type(error).__name__}{said and ': '}{said} ({where})"


def score_of(fields: dict[str, Any]) -> Score:
    """A score that was written as JSON."""
    fields["contradictions"] = tuple(fields["contradictions"])
    fields["table"] = tuple(map(tuple, fields["table"]))
    return Score(**fields)


def save(results: Sequence[Result], path: Path, *, about: str) -> None:
    """Write what is known so far, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    kept = {"about": about, "results": [asdict(result) for result in results]}
    new.write_text(json.dumps(kept, indent=1))
    new.replace(path)


def load(path: Path) -> tuple[list[Result], str]:
    """What a run has written, also one that was interrupted; and what it is about."""
    found: list[Result] = []
    kept = json.loads(path.read_text())
    for fields in kept["results"]:
        score = fields.pop("score")
        found.append(Result(**fields, score=score and score_of(score)))
    return found, kept["about"]


def plan(
    lines: Sequence[Line], *, seed: int, dose_of: Callable[[Line], tuple[int, int]]
) -> list[tuple[Line, Dose]]:
    """A dose for each line, with a directory of its own outside the tree.

    A line alone gets the very seed, so that it can be repeated.
    """
    home = Path(tempfile.mkdtemp(prefix="torture-"))
    seeds = random.Random(seed)
    return [
        (
            line,
            Dose(*dose_of(line), seed if len(lines) == 1 else seeds.getrandbits(32), home / str(n)),
        )
        for n, line in enumerate(lines)
    ]


def fresh_seed() -> int:
    """A seed nobody has chosen."""
    return int.from_bytes(os.urandom(4))
