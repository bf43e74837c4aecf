"""Certificates and tokens: what is taken, what is refused, and what is taken later."""

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.secured import Papers, Token
from tidegate_server.config import ConfigError, Settings, load_settings
from tidegate_server.config.tokens import read_tokens
from tidegate_server.config.watched import Watched
from tidegate_server.core.access import Access, Role, Tokens
from tidegate_server.errors import BadCredentials, NotAllowed
from tidegate_server.guard import Guard

SECRET = "c4nary"
BOT = Access("test", frozenset({Role.PRODUCER}), frozenset({"bot"}))


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    made = Papers(tmp_path / "papers")
    made.admit(Token(SECRET, ("producer",), ("bot",)))
    return made


def load(settings: dict[str, str], **more: str) -> Settings:
    environ = {f"TIDEGATE_{key.upper()}": value for key, value in (settings | more).items()}
    return load_settings(environ=environ)


def refusal(settings: dict[str, str], **more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(settings, **more)
    return str(caught.value)


def test_a_guarded_server_may_listen_anywhere(papers: Papers):
    anywhere = {"listen": "0.0.0.0:7460", "http_listen": "[::]:7461"}
    assert load(papers.settings(), **anywhere).exposed == []
    assert load(papers.settings(client_ca=False), **anywhere).exposed == []
    only_certificates = papers.settings()
    del only_certificates["tokens_file"]
    assert load(only_certificates, **anywhere).exposed == []


@pytest.mark.parametrize("missing", ["tls", "who may come in"])
def test_half_a_guard_is_none(papers: Papers, missing: str):
    settings = papers.settings(client_ca=False)
    for key in ("tls_cert_file", "tls_key_file") if missing == "tls" else ("tokens_file",):
        del settings[key]
    said = refusal(settings, listen="0.0.0.0:7460")
    assert said.startswith('TIDEGATE_LISTEN is "0.0.0.0:7460"; it must be on 127.0.0.1')
    exposed = load(settings, listen="0.0.0.0:7460", insecure_listen="true").exposed
    assert [str(address) for address in exposed] == ["0.0.0.0:7460"]


def test_a_certificate_and_its_key_belong_together(papers: Papers):
    settings = papers.settings()
    del settings["tls_key_file"]
    assert "TIDEGATE_TLS_KEY_FILE is unset; it must be set" in refusal(settings)
    alone = {"tls_client_ca_file": str(papers.ca)}
    assert "unset unless TIDEGATE_TLS_CERT_FILE is set" in refusal(alone)
    other = str(papers.folder / "client.key")
    assert "(key values mismatch)" in refusal(papers.settings(), tls_key_file=other)
    no_pem = str(papers.tokens)
    assert "TIDEGATE_TLS_CERT_FILE is" in refusal(papers.settings(), tls_cert_file=no_pem)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "at least one"),
        ("token = 1", "a table [[token]]"),
        ("x = 1", "a table [[token]]"),
        (f"[[token]]\nname = {SECRET}", "there is a mistake at line 2"),
        (Token(SECRET).entry + "extra = 1", "of token 1, extra is unknown"),
        (Token(SECRET).entry + f'value = "{SECRET}"', "of token 1, value is unknown"),
        ('[[token]]\nname = "a"', "sha256 must be set; roles must be set; instances must be set"),
        (Token(SECRET, ("root",)).entry, 'roles must be a list of roles from "producer"'),
        (Token(SECRET, ()).entry, "roles must be a list of roles"),
        (Token(SECRET, instances=()).entry, "instances must be a list of names of instances, or"),
        (Token(SECRET, instances=("bot-*",)).entry, "instances must be a list of names"),
        (Token(SECRET).entry.replace('sha256 = "', 'sha256 = "x'), "64 hexadecimal digits"),
        (Token(SECRET).entry * 2, "two have the same sha256"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_refused_without_being_quoted(
    papers: Papers, text: str, rule: str
):
    papers.tokens.write_text(text)
    said = refusal({"tokens_file": str(papers.tokens)})
    assert said.startswith("TIDEGATE_TOKENS_FILE is ")
    assert rule in said
    assert SECRET not in said
    assert "\n" not in said


def test_a_token_is_known_by_its_hash(papers: Papers):
    tokens = read_tokens(papers.tokens)
    assert tokens.find(SECRET) == BOT
    assert tokens.find(SECRET.upper()) is None
    assert tokens.find("\udcff") is None
    assert SECRET not in papers.tokens.read_text()


@pytest.mark.parametrize("credentials", ["", SECRET, f"Basic {SECRET}", "Bearer", "Bearer x"])
def test_other_credentials_are_none(papers: Papers, credentials: str):
    with pytest.raises(BadCredentials):
        Guard(read_tokens(papers.tokens)).admit(credentials)


def test_the_scheme_may_be_written_in_any_case(papers: Papers):
    assert Guard(read_tokens(papers.tokens)).admit(f"bearer {SECRET}") == BOT


def test_what_a_token_does_not_cover_is_refused():
    BOT.must_have(Role.PRODUCER)
    BOT.must_cover("bot")
    assert BOT.one("bot") == "bot"
    assert BOT.some(frozenset()) == {"bot"}
    refused: list[Callable[[], object]] = [
        lambda: BOT.must_have(Role.ADMIN),
        lambda: BOT.must_cover("other"),
        lambda: BOT.one(None),
        lambda: BOT.some(frozenset({"bot", "other"})),
    ]
    for attempt in refused:
        with pytest.raises(NotAllowed):
            attempt()


def test_what_is_held_under_a_token_ends_when_the_token_changes(papers: Papers):
    guard, ended = Guard(read_tokens(papers.tokens)), list[str]()
    with guard.holding(f"Bearer {SECRET}", BOT, lambda: ended.append("changed")):
        papers.admit(Token(SECRET, ("producer",), ("bot",)), Token("other"))
        guard.replace(read_tokens(papers.tokens))
        assert ended == []
        guard.replace(Tokens(()))
        assert ended == ["changed"]
    guard.replace(Tokens(()))
    assert ended == ["changed"]


def test_a_file_that_has_changed_is_read_once_it_has_settled(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("one")
    watched = Watched("word", [file], file.read_text)
    assert not watched.look()
    file.write_text("half of tw")
    assert not watched.look()
    file.write_text("two")
    assert not watched.look()
    assert watched.value == "one"
    assert watched.look()
    assert watched.value == "two"
    assert not watched.look()


def test_what_cannot_be_used_is_left_alone_with_one_sentence(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("1")
    watched = Watched("number", [file], lambda: _number(file))
    with capture_logs() as logs:
        file.write_text(SECRET)
        assert not any(watched.look() for _ in range(5))
        file.unlink()
        assert not any(watched.look() for _ in range(5))
    assert watched.value == 1
    said = [log["event"] for log in logs]
    assert said == ["the new number cannot be used, the old stays: it must be a number"] * 2
    file.write_text("22")
    watched.look()
    assert watched.look()
    assert watched.value == 22


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        raise ValueError("a number") from None
