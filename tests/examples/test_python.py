import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import Server

FOLDER = Path(__file__).parents[2] / "examples" / "python"


@pytest.mark.parametrize("name", ["bot.py", "bot_blocking.py"])
async def test_the_bot_answers_the_burst_once(name: str, tmp_path: Path):
    async with Server(tmp_path, window_delay="1s", window_grace="0s") as server:
        command = [sys.executable, FOLDER / name, server.target]
        bot = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=30
        )
        assert (bot.stdout, bot.stderr) == (
            "ann wrote: Hello / I ordered a bike / Where is it?\n",
            "",
        )
