import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
QUICKLY = (
    *("--no-audit", "--no-fund", "--no-package-lock"),
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=20000"),
)


def run(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example beside the protos, with its packages installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    example = shutil.copytree(
        ROOT / "examples" / "node",
        tmp_path / "examples" / "node",
        ignore=shutil.ignore_patterns("node_modules"),
    )
    installed = run("npm", "install", *QUICKLY, cwd=example)
    if installed.returncode:
        pytest.skip(
            f"npm cannot install the example's packages: {installed.stderr.strip().splitlines()[0]}"
        )
    return example


async def test_the_bot_answers_the_burst_once(folder: Path, tmp_path: Path):
    async with Server(tmp_path / "s", window_delay="1s", window_grace="0s") as server:
        bot = await asyncio.to_thread(run, "node", "bot.js", server.target, cwd=folder)
        assert (bot.stdout, bot.stderr) == (
            "ann wrote: Hello / I ordered a bike / Where is it?\n",
            "",
        )
