"""The clients and the commands against a server that wants a certificate and a token."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import environment
from tests.security.gate import ANNA
from tests.support.secured import Papers, SecuredServer
from tidegate import Client, PermissionDenied, Unauthenticated, Unavailable, blocking


def files(papers: Papers) -> dict[str, Any]:
    return {
        "ca_file": papers.ca,
        "cert_file": papers.folder / "client.pem",
        "key_file": papers.folder / "client.key",
    }


async def test_the_client_comes_in(secured: SecuredServer, papers: Papers):
    token = ANNA.everything.value
    async with Client(secured.target, token=token, **files(papers)) as gate:
        assert (await gate.add("client", "ann", "hello")).message_id
        async with gate.subscribe("client") as batches:
            batch = await anext(batches)
            assert await batch.ack()


async def test_the_client_says_why_it_may_not(secured: SecuredServer, papers: Papers):
    async with Client(secured.target, **files(papers)) as gate:
        with pytest.raises(Unauthenticated, match="wants a token"):
            await gate.add("mine", "ann", "hello")
    async with Client(secured.target, token=ANNA.producer.value, **files(papers)) as gate:
        with pytest.raises(PermissionDenied, match="does not cover that instance"):
            await gate.add("theirs", "ann", "hello")
        async with gate.subscribe("mine") as batches:
            with pytest.raises(PermissionDenied, match="lacks the role subscriber"):
                await anext(batches)
    async with Client(secured.target, ca_file=papers.ca) as gate:
        with pytest.raises(Unavailable):
            await gate.server_info()


def test_the_blocking_client_comes_in(secured: SecuredServer, papers: Papers):
    token = ANNA.everything.value
    with blocking.Client(secured.target, token=token, **files(papers)) as gate:
        assert gate.add("blocking", "ann", "hello").message_id


def tidegate(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "tidegate", *arguments]
    env = environment(**settings)
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)


def test_commands_come_in_by_options_or_by_the_environment(
    secured: SecuredServer, papers: Papers, tmp_path: Path
):
    holder = tmp_path / "token"
    holder.write_text(ANNA.everything.value + "\n")
    options = {f"--{key.replace('_', '-')}": str(file) for key, file in files(papers).items()}
    options |= {"--token-file": str(holder)}
    words = [word for pair in options.items() for word in pair]
    sent = tidegate(*words, "send", "cli", "ann", "hi", "--server", secured.target)
    assert (sent.returncode, sent.stderr) == (0, "")
    environ = {f"TIDEGATE_{key.upper()}": str(file) for key, file in files(papers).items()}
    environ |= {"TIDEGATE_ADDRESS": secured.target, "TIDEGATE_TOKEN": ANNA.everything.value}
    assert tidegate("stats", **environ).returncode == 0
    refused = tidegate("stats", **environ | {"TIDEGATE_TOKEN": "wr0ng"})
    assert refused.returncode == 1
    assert refused.stderr == "tidegate: this server does not know that token\n"
    both = tidegate("stats", **environ, TIDEGATE_TOKEN_FILE=str(holder))
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)
