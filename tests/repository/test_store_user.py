"""The store's user in the documents has what the server needs, and no more."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.repository.paths import ROOT
from tests.support.replicas import ReplicatedStore
from tests.support.servers import Server
from tidegate import Client, NackAction

STORE = ROOT / "server" / "tidegate_server" / "store"
# Of the connection itself, and of the look at the store when the server starts.
ALWAYS = {"ping", "info", "config|get", "script|load", "evalsha", "subscribe"}
# Only `tidegate store move` sends what is in these.
MOVING = ("move", "pack")
# Of the way to a primary that Sentinels or a Cluster know, and of asking its replicas.
REPLICATED = {"role", "cluster|slots", "set", "wait"}
CALL = re.compile(r"""\bcall\(\s*["']([A-Z]+)["']""")


def rule() -> list[str]:
    found = re.search(r"(?m)^ACL (SETUSER tidegate .*)$", (ROOT / "docs/operations.md").read_text())
    assert found
    return found[1].split()


def test_the_commands_are_those_that_the_server_sends():
    allowed = {word[1:] for word in rule() if word[0] == "+"}
    sources = [p for kind in ("*.lua", "*.py") for p in STORE.rglob(kind) if p.stem not in MOVING]
    sent = {command.lower() for path in sources for command in CALL.findall(path.read_text())}
    assert allowed == sent | ALWAYS | REPLICATED | {"hsetnx", "hgetall"}


def test_a_move_needs_what_the_document_says_besides():
    found = re.search(
        r"(?m)^ACL SETUSER tidegate (\+.*)$", (ROOT / "docs/operations.md").read_text()
    )
    assert found
    allowed = {word[1:] for word in (*rule(), *found[1].split()) if word[0] == "+"}
    sources = [STORE / "move.py", STORE / "lua" / "pack.lua"]
    sent = {command.lower() for path in sources for command in CALL.findall(path.read_text())}
    assert sent <= allowed
    assert "pubsub|numsub" in allowed


@pytest.mark.parametrize(("level", "replicas"), [("everysec", 0), ("replicated", 1)])
async def test_it_is_enough_for_a_whole_turn(tmp_path: Path, level: str, replicas: int):
    async with ReplicatedStore(replicas=replicas, appendonly="yes") as stores:
        words = [word.replace(">PASSWORD", ">secret") for word in rule()]
        async with stores.primary.client() as client:
            await client.execute_command("ACL", *words)
            await client.config_set("min-replicas-to-write", replicas)
        url = stores.url.replace("redis://", "redis://tidegate:secret@")
        async with (
            Server(tmp_path, store_url=url, durability=level) as server,
            Client(server.target) as gate,
        ):
            for action in (NackAction.RELEASE, NackAction.DEAD_LETTER):
                await gate.add("bot", "ann", "hello", flush=True)
                (batch,) = await gate.pull("bot", wait=timedelta(seconds=10))
                await batch.nack(action)
                if action is NackAction.RELEASE:
                    (batch,) = await gate.pull("bot", wait=timedelta(seconds=10))
                    await batch.ack()
            assert (await gate.status("bot", "ann")).last_batch
            assert (await gate.stats()).dead_letters == 1
