"""`tidegate token`: what it prints can be pasted."""

from pathlib import Path

from tests.cli.conftest import Call, objects
from tidegate_server.config.tokens import read_tokens
from tidegate_server.core.access import Access, Role


def test_the_entry_admits_the_token(call: Call, tmp_path: Path):
    words = ("--role", "admin", "--role", "producer", "--instance", "bot-1")
    made = call("token", "webhook", *words)
    assert made.code == 0
    token = next(line for line in made.lines if line.startswith("tgt_"))
    entry = made.out.partition("[[token]]")
    file = tmp_path / "tokens.toml"
    file.write_text(entry[1] + entry[2])
    roles = frozenset({Role.ADMIN, Role.PRODUCER})
    assert read_tokens(file).find(token) == Access("webhook", roles, frozenset({"bot-1"}))
    assert token not in file.read_text()


def test_for_programs_it_is_json_and_never_the_same_twice(call: Call):
    first, second = (
        objects(call("token", "bot", "--role", "subscriber", "--json"))[0] for _ in range(2)
    )
    assert first["token"] != second["token"]
    assert first["entry"]["instances"] == ["*"]


def test_what_no_file_may_have_is_refused(call: Call):
    assert call("token", "two words", "--role", "admin").code == 2
    assert call("token", "a", "--role", "admin", "--instance", "bot-*").code == 2
    assert call("token", "a", "--role", "root").code == 2
    assert call("token", "a").code == 2
