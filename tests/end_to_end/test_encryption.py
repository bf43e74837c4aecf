"""With keys, the files of the store give nothing away, and everything else is as ever."""

import base64
import os
from datetime import timedelta
from pathlib import Path

from tests.support.servers import Server, refusal
from tidegate import Client, NackAction


def key_files(directory: Path) -> dict[str, str]:
    key = base64.b64encode(os.urandom(32)).decode()
    (directory / "keys").write_text(f"k1 {key}\n")
    (directory / "name-key").write_text(f"{key}\n")
    return {
        "encryption_keys_file": f"{directory}/keys",
        "name_key_file": f"{directory}/name-key",
    }


async def test_a_whole_turn_leaves_no_readable_byte(tmp_path: Path):
    chat = ("bot", "+49 170 CANARY-NAME")
    async with (
        Server(tmp_path / "gate", **key_files(tmp_path)) as server,
        Client(server.target) as gate,
    ):
        await gate.add(*chat, "CANARY-TEXT", message_id="CANARY-ID")
        await gate.amend(*chat, "CANARY-ID", "CANARY-AMENDED")
        await gate.add(*chat, "CANARY-MORE", flush=True)
        await server.kill()
        await server.start()
        (batch,) = await gate.pull("bot", wait=timedelta(seconds=10))
        assert (batch.instance, batch.conversation) == chat
        assert [m.text for m in batch.messages] == ["CANARY-AMENDED", "CANARY-MORE"]
        assert batch.messages[0].id == "CANARY-ID"
        await batch.nack(NackAction.DEAD_LETTER, reason="CANARY-REASON")
        (letter,) = [found async for found in gate.dead_letters("bot")]
        assert letter.conversation == chat[1]
        files = [p.read_bytes() for p in (tmp_path / "gate/data").rglob("*") if p.is_file()]
        assert any(b"RPUSH" in content.upper() for content in files)
        assert not any(b"CANARY" in content for content in files)
        assert "CANARY" not in server.output()


async def test_a_wrong_key_is_refused_with_a_sentence(tmp_path: Path):
    (tmp_path / "keys").write_text("k1 short\n")
    server = Server(tmp_path / "gate", encryption_keys_file=f"{tmp_path}/keys")
    code, said = await refusal(server)
    assert code == 1
    assert "line 1: a key is 32 bytes in base64" in said
    assert "short" not in said
