"""The endpoint of an instance."""

import base64
from datetime import timedelta
from pathlib import Path

import pytest

from tidegate_server.config import ConfigError, Settings, load_settings

CANARY = "c4nary"
KEY = b"0123456789abcdefghijkl" + b"mn"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
URL = 'url = "https://bot.example/x"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(f'[instances."b.1".push]\n{text}')
    return load_settings(environ={}, config_file=file)


def problem(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    (line,) = str(caught.value).splitlines()
    assert CANARY not in line
    return line.replace(f" in {file}", "")


def test_an_endpoint_needs_nothing_but_its_url(file: Path):
    push = load(file, URL).endpoints["b.1"]
    assert (push.url, push.bearer, push.keys) == ("https://bot.example/x", "", ())
    assert (push.timeout, push.max_in_flight) == (timedelta(seconds=20), 4)
    assert not push.allow_private


def test_without_endpoints_nothing_is_pushed():
    assert load_settings(environ={}).endpoints == {}


def test_secrets_are_read_from_files_and_hidden(file: Path, tmp_path: Path):
    (tmp_path / "token").write_text(f"{CANARY}\n")
    (tmp_path / "secret").write_text(f"{SECRET}\nwhsec_{'A' * 32}\n")
    settings = load(
        file,
        f'url = "https://bot.example/x?k={CANARY}"\n'
        f'token_file = "{tmp_path}/token"\nsecret_file = "{tmp_path}/secret"\n',
    )
    push = settings.endpoints["b.1"]
    assert push.bearer == CANARY
    assert push.keys == (KEY, bytes(24))
    shown = {name: value for name, value, _ in settings.describe()}
    assert shown['instances."b.1".push.token'] == "********"
    assert shown['instances."b.1".push.token_file'] == f"{tmp_path}/token"
    for text in (CANARY, SECRET):
        assert text not in str(settings.describe())


def test_secrets_may_be_in_the_file_of_settings(file: Path):
    settings = load(file, f'{URL}token = "{CANARY}"\nsecret = "{SECRET} {SECRET}"\n')
    push = settings.endpoints["b.1"]
    assert (push.bearer, push.keys) == (CANARY, (KEY, KEY))
    assert CANARY not in f"{settings!r} {settings.describe()}"


@pytest.mark.parametrize(
    "text",
    [
        'url = "ftp://bot.example"',
        'url = "https://"',
        'url = "https://bot.example:0/"',
        'url = "https://bot.example:x/"',
        f'url = "https://u:{CANARY}@bot.example"',
        'url = "https://bot.example/#x"',
        'url = "https://bot.example/a b"',
        'url = "bot.example"',
        "url = 3",
    ],
)
def test_a_url_that_is_none_is_refused(file: Path, text: str):
    assert "push.url is " in (line := problem(file, text))
    assert "must be an https:// or http:// URL" in line


@pytest.mark.parametrize(
    "url",
    [
        "http://bot.example/",
        "https://127.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/",
        "https://localhost:8080/",
    ],
)
def test_what_is_surely_not_public_or_not_encrypted_must_be_allowed(file: Path, url: str):
    line = problem(file, f'url = "{url}"')
    assert line.endswith(
        "it must be an https:// URL with a public address, unless allow_private is true beside it"
    )
    load(file, f'url = "{url}"\nallow_private = true')


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f'token = "a {CANARY}"', "push.token is ********; it must be a token without spaces"),
        ('token = "a\\nb"', "push.token is ********; it must be a token without spaces"),
        (f'secret = "{CANARY}"', 'push.secret is ********; it must be "whsec_" and 24 to 64'),
        (f'secret = "whsec_{CANARY}"', 'push.secret is ********; it must be "whsec_" and 24'),
        (f'secret = "{SECRET} x{CANARY}"', 'push.secret is ********; it must be "whsec_" and'),
        ('token_file = "/nowhere"', 'push.token_file is "/nowhere"; it must be the path of a file'),
        ('timeout = "1h"', 'push.timeout is "1h"; it must be a duration from 100ms to 5m'),
        ("max_in_flight = 0", 'push.max_in_flight is "0"; it must be a whole number from 1 to'),
        (f'tokn = "{CANARY}"', "push.tokn is unknown; did you mean token?"),
    ],
)
def test_each_mistake_has_a_sentence(file: Path, text: str, sentence: str):
    assert problem(file, URL + text).startswith(f'instances."b.1".{sentence}')


def test_a_file_that_holds_no_secret_is_named(file: Path, tmp_path: Path):
    (tmp_path / "bad").write_text(f"{CANARY} {CANARY}")
    line = problem(file, f'{URL}token_file = "{tmp_path}/bad"')
    assert f'push.token_file is "{tmp_path}/bad"; it must be a file that holds a token' in line


def test_a_secret_is_given_once(file: Path, tmp_path: Path):
    (tmp_path / "token").write_text("x")
    line = problem(file, f'{URL}token = "{CANARY}"\ntoken_file = "{tmp_path}/token"')
    assert line.endswith("it must be unset if token is set")


def test_a_url_is_needed(file: Path):
    assert problem(file, 'token = "x"') == 'instances."b.1".push.url is unset; it must be set'


def test_every_endpoint_must_have_its_place_among_the_subscribers(file: Path):
    file.write_text(f'max_subscribers = 1\n[instances."a".push]\n{URL}[instances."b".push]\n{URL}')
    with pytest.raises(ConfigError, match="must be at least 2, one for each endpoint"):
        load_settings(environ={}, config_file=file)
