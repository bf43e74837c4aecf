import asyncio
import base64
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest

from tests.end_to_end.traffic import window
from tests.support.servers import Server
from tests.support.stores import eventually
from tidegate import Client
from tidegate_server.sinks.http import signed

ROOT = Path(__file__).parents[2]
KEY = b"0123456789abcdefghijklmn"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[asyncio.StreamReader]:
    """What the example prints; the first line says where it listens."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        ROOT / "examples" / "push_receiver" / "receiver.py",
        "0",
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    yield process.stdout
    process.kill()
    await process.communicate()


async def test_the_receiver_verifies_and_answers_once(
    tmp_path: Path, receiver: asyncio.StreamReader
):
    port = (await receiver.readline()).decode().split()[-1]
    url = f"http://127.0.0.1:{port}/"
    config = tmp_path / "tidegate.toml"
    config.write_text(
        f'[instances."bot".push]\nurl = "{url}"\nsecret = "{SECRET}"\nallow_private = true\n'
    )
    async with (
        Server(tmp_path / "server", config=str(config)) as server,
        Client(server.target) as gate,
    ):
        for text in ("Hello", "Where is it?"):
            await gate.add("bot", "ann", text, policy=window(0.3))
        async with asyncio.timeout(10):
            line = await receiver.readline()
        assert line.decode() == "ann wrote: Hello / Where is it?\n"

        async def sent() -> bool:
            return (await gate.stats()).counters["pushes_sent_total"] == 1

        await eventually(sent)
    async with aiohttp.ClientSession() as session:
        forged = signed("b1", int(time.time()), b"{}", keys=[b"another key"])
        async with session.post(url, data=b"{}", headers=forged) as answer:
            assert answer.status == 401


def test_the_verification_for_node_is_right():
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    (verify,) = re.findall(r"(?s)```js\n(.*?)```", (ROOT / "docs" / "push.md").read_text())
    body, now = '{"text": "grüße"}', int(time.time())
    good = signed("b1", now, body.encode(), keys=[b"old", KEY])
    cases = [
        (good, body, True),
        (good, body + " ", False),
        (good | {"webhook-id": "b2"}, body, False),
        (signed("b1", now - 600, body.encode(), keys=[KEY]), body, False),
        (signed("b1", now, body.encode(), keys=[b"old"]), body, False),
        (signed("b1", now, body.encode(), keys=[]), body, False),
    ]
    given = json.dumps([case[:2] for case in cases])
    script = (
        f"{verify}\nconsole.log(JSON.stringify({given}.map("
        f"([headers, body]) => verify({json.dumps(SECRET)}, headers, body))))"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [expected for *_, expected in cases]
