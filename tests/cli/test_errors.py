import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Call, Ended, environment, run

AWAY = "127.0.0.1:1"


def sentences(ended: Ended) -> list[str]:
    assert ended.out == ""
    return ended.err.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        ("send", "bot", "ann", "hi"),
        ("subscribe",),
        ("status", "bot", "ann"),
        ("flush", "bot", "ann"),
        ("stats",),
        ("dead-letters",),
        ("dead-letters", "show", "0-1-1"),
        ("dead-letters", "delete", "0-1-1", "--yes"),
        ("conversations",),
        ("tail",),
        ("hold", "bot", "ann"),
    ],
)
def test_a_server_that_is_away_is_one_sentence(call: Call, command: tuple[str, ...]) -> None:
    ended = call(*command, "--server", AWAY)

    assert ended.code == 1
    assert sentences(ended) == [
        f"tidegate: no Tidegate server answers at {AWAY}; start one with `tidegate serve`, "
        "or name another with --server"
    ]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("sned",), "tidegate: no such command 'sned'"),
        (("send", "bot"), "tidegate send: missing argument"),
        (("hold", "b", "a", "--for", "x"), "tidegate hold: invalid value for '--for'"),
        (("tail", "--count", "0"), "tidegate tail: invalid value for '--count'"),
        (("stats", "--jason"), "tidegate stats: no such option: --jason"),
        (("send", "b", "a", "hi", "--delay", "x"), "tidegate send: invalid value for '--delay'"),
        (("subscribe", "--count", "0"), "tidegate subscribe: invalid value for '--count'"),
        (("subscribe", "--nack", "maybe"), "tidegate subscribe: invalid value for '--nack'"),
        (("send", "b", "a", "x", "y", "--id", "1"), "tidegate: --id is for one message"),
        (("stats", "-s", "nowhere"), 'tidegate: "nowhere" is no address of a server'),
        (("stats", "--token", "a\nb"), "tidegate: the token may hold visible ASCII"),
        (("replay", "x", "--speed", "0"), "tidegate: --speed must be above 0"),
        (("replay", "x", "-s", AWAY, "--data-dir", "/d"), "tidegate: --data-dir is for a server"),
        (("replay", "x", "--delay", "1s", "--grace", "2s"), "tidegate: --grace must be at most"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    call: Call, command: tuple[str, ...], sentence: str
) -> None:
    ended = call(*command)

    assert ended.code == 2
    assert sentences(ended)[0].startswith(sentence)


def test_a_trace_that_is_not_there_is_one_sentence(call: Call) -> None:
    ended = call("replay", "/nowhere.jsonl")

    assert (ended.code, sentences(ended)) == (
        1,
        ["tidegate: /nowhere.jsonl cannot be read: No such file or directory"],
    )


def test_the_version_and_the_help_are_there(call: Call) -> None:
    assert call("--version").out.startswith("tidegate ")
    bare, asked = call(), call("--help")
    assert bare.code == asked.code == 0
    for command in ("serve", "demo", "replay", "dead-letters", "conversations", "erase"):
        assert command in bare.out
        assert command in asked.out
    assert "\x1b" not in asked.out


def test_settings_are_checked_and_shown(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "tidegate.toml"
    file.write_text('store_url = "redis://user:secret@localhost:6379"\n')
    settings = {"TIDEGATE_CONFIG": str(file), "TIDEGATE_WINDOW_DELAY": "5s"}
    checked, shown = call("config", "check", **settings), call("config", "show", **settings)

    assert checked.lines[0].startswith("✓ the settings are right: 1 from environment, ")
    assert shown.lines[0].split() == ["name", "value", "source"]
    assert ["TIDEGATE_WINDOW_DELAY", "5s", "environment"] in [x.split() for x in shown.lines]
    assert "secret" not in shown.out
    assert (
        '"name": "TIDEGATE_WINDOW_DELAY", "value": "5s"' in call("config", "--json", **settings).out
    )


def test_wrong_settings_are_a_line_each(call: Call, tmp_path: Path) -> None:
    wrong = {"TIDEGATE_WINDOW_DELAY": "soon", "TIDEGATE_STORE_URL": "http://x", "TIDEGATE_X": "1"}
    for command in (("config", "check"), ("config", "show"), ("serve",)):
        ended = call(*command, **wrong)
        names = sorted(line.split()[0] for line in sentences(ended))
        assert (ended.code, names) == (2, sorted(wrong))


def test_a_server_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    own = {"TIDEGATE_HTTP_LISTEN": "", "TIDEGATE_DATA_DIR": str(tmp_path / "data")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        busy = run("serve", TIDEGATE_LISTEN=listen, **own)
    folder = run("serve", **own | {"TIDEGATE_DATA_DIR": str(tmp_path / "file" / "data")})
    config = run("serve", "--config", str(tmp_path / "missing.toml"), **own)

    assert busy.code == folder.code == 1
    assert f"tidegate: TIDEGATE_LISTEN: cannot listen on {listen}" in busy.err
    assert f"tidegate: the data directory {tmp_path}/file/data cannot be used" in folder.err
    assert config.code == 2
    assert sentences(config)[0].startswith(f'--config is "{tmp_path}/missing.toml"')


def test_nobody_has_to_read_to_the_end() -> None:
    command = f"{sys.executable} -m tidegate config show | true"
    shown = subprocess.run(
        command, shell=True, stderr=subprocess.PIPE, text=True, env=environment()
    )

    assert shown.stderr == ""
