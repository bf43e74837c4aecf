"""Every setting: what is taken, what is refused, and what the refusal says."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_server.config import Address, ConfigError, Settings, load_settings
from tidegate_server.config.addresses import shown_url
from tidegate_server.config.settings import KEYS, env_name
from tidegate_server.config.values import format_duration
from tidegate_server.core.model import WindowMode, WindowPolicy
from tidegate_server.core.quota import Quota
from tidegate_server.core.retry import RetryPolicy

S, MS = timedelta(seconds=1), timedelta(milliseconds=1)

GOOD: list[tuple[str, str, object]] = [
    ("listen", "127.0.0.1:0", (Address("127.0.0.1", 0),)),
    ("listen", "[::1]:7460", (Address("::1", 7460),)),
    ("listen", "unix:/run/t.sock", (Address(path="/run/t.sock"),)),
    ("listen", "unix:///run/t.sock", (Address(path="/run/t.sock"),)),
    ("listen", "localhost:1, unix:/a", (Address("localhost", 1), Address(path="/a"))),
    ("http_listen", "127.0.0.1:9", (Address("127.0.0.1", 9),)),
    ("http_listen", "", ()),
    ("insecure_listen", "yes", True),
    ("insecure_listen", "FALSE", False),
    ("store_url", "redis://h:1/2", "redis://h:1/2"),
    ("store_url", "rediss://h", "rediss://h"),
    ("store_url", "redis://[::1]:6379", "redis://[::1]:6379"),
    ("store_url", "unix:///run/v.sock?db=1", "unix:///run/v.sock?db=1"),
    ("store_url", "redis+sentinel://a:1,[::1]/main", "redis+sentinel://a:1,[::1]/main"),
    ("store_url", "rediss+sentinel://a/main/3", "rediss+sentinel://a/main/3"),
    ("store_url", "redis+cluster://a:1,b", "redis+cluster://a:1,b"),
    ("store_url", "", None),
    ("store_prefix", "a.B_c:d-1", "a.B_c:d-1"),
    ("store_wait", "0", 0 * S),
    ("store_timeout", "250ms", 250 * MS),
    ("durability", "FSYNC", "fsync"),
    ("durability", "", None),
    ("durability", "replicated", "replicated"),
    ("store_replicas", "2", 2),
    ("data_dir", "/var/t", Path("/var/t")),
    ("window_mode", "sliding", WindowMode.SLIDING),
    ("window_delay", "PT8S", 8 * S),
    ("window_delay", "0", 0 * S),
    ("window_grace", "0.5", 500 * MS),
    ("window_max_wait", "24h", 86_400 * S),
    ("window_max_messages", "500", 500),
    ("window_max_bytes", "3MiB", 3 << 20),
    ("max_message_bytes", "1.5KiB", 1536),
    ("max_message_bytes", "1", 1),
    ("max_conversation_messages", "0", 0),
    ("max_conversation_bytes", "1MiB", 1 << 20),
    ("max_instance_messages", "1000000", 1_000_000),
    ("max_instance_buffers", "5", 5),
    ("max_store_messages", "7", 7),
    ("max_store_buffers", "1", 1),
    ("default_fallback", "immediate", "immediate"),
    ("retries", "0", 0),
    ("retry_base", "2s", 2 * S),
    ("max_expiries", "1", 1),
    ("deduplication", "1d", 86_400 * S),
    ("retain_processed", "5min", 300 * S),
    ("retain_processed", "0", 0 * S),
    ("retain_status", "1h30m", 5_400 * S),
    ("lease", "PT1M30S", 90 * S),
    ("heartbeat", "100ms", 100 * MS),
    ("max_subscribers", "1", 1),
    ("drain_timeout", "0s", 0 * S),
    ("late_after", "1m", 60 * S),
    ("events", "off", False),
    ("log_level", "DEBUG", "debug"),
    ("log_format", "json", "json"),
]

BAD: list[tuple[str, str, str]] = [
    ("listen", "", "host:port"),
    ("listen", "7460", "host:port"),
    ("listen", ":7460", "host:port"),
    ("listen", "127.0.0.1:65536", "host:port"),
    ("listen", "[:::1]:7460", "host:port"),
    ("listen", "unix:relative", "unix:/path"),
    ("listen", "unix:/" + "x" * 107, "unix:/path"),
    ("listen", "0.0.0.0:7460", "TIDEGATE_INSECURE_LISTEN"),
    ("listen", "127.0.0.1:1,db.example:2", "TIDEGATE_INSECURE_LISTEN"),
    ("http_listen", "[::]:7461", "TIDEGATE_INSECURE_LISTEN"),
    ("http_listen", "unix:/x", "host:port"),
    ("insecure_listen", "perhaps", "true or false"),
    ("tls_cert_file", "/no/such/file", "a file that exists"),
    ("tls_key_file", "/no/such/file", "a file that exists"),
    ("tls_client_ca_file", "/no/such/file", "a file that exists"),
    ("tokens_file", "/no/such/file", "a file that exists"),
    ("store_url", "localhost", "redis://host:port/db"),
    ("store_url", "http://h", "rediss://host:port/db"),
    ("store_url", "redis://h:x", "redis://host:port/db"),
    ("store_url", "redis://h/keys", "redis://host:port/db"),
    ("store_url", "redis://h?socket_timeout=1", "redis://host:port/db"),
    ("store_url", "unix://", "unix:///path"),
    ("store_url", "redis+cluster://h/0/1", "redis+cluster://host:port,host:port"),
    ("store_url", "redis+cluster://h,", "redis+cluster://host:port,host:port"),
    ("store_url", "redis+cluster://h:0", "redis+cluster://host:port,host:port"),
    ("store_url", "redis+sentinel://h", "redis+sentinel://host:port,host:port/service/db"),
    ("store_url", "redis+sentinel://h/main/x", "redis+sentinel://host:port,host:port/service/db"),
    ("store_url", "redis+other://h", "redis+cluster://host:port,host:port"),
    ("store_username", "u", "unset while TIDEGATE_STORE_URL is"),
    ("store_ca_file", "/no/such/file", "a file that exists"),
    ("encryption_keys_file", "/no/such/file", "a file that exists"),
    ("name_key_file", "/no/such/file", "a file that exists"),
    ("store_prefix", "{tg}", "1 to 32 characters"),
    ("store_prefix", "", "1 to 32 characters"),
    ("store_wait", "-1", "from 0s to 1h"),
    ("store_timeout", "0", "from 10ms to 1m"),
    ("durability", "disk", "memory, everysec, fsync, replicated"),
    ("store_replicas", "0", "from 1 to 5"),
    ("data_dir", "", "a path"),
    ("window_mode", "tumbling", "fixed, sliding"),
    ("window_delay", "61m", "from 0s to 1h"),
    ("window_delay", "soon", '"1h30m"'),
    ("window_delay", "P1M", '"1h30m"'),
    ("window_delay", "PT", '"1h30m"'),
    ("window_delay", "", '"1h30m"'),
    ("window_grace", "9s", "at most the window's delay, 8s"),
    ("window_max_wait", "7s", "at least the window's delay, 8s"),
    ("window_max_wait", "25h", "from 0s to 24h"),
    ("window_max_messages", "0", "from 1 to 500"),
    ("window_max_messages", "9" * 5000, "from 1 to 500"),
    ("window_max_bytes", "4MiB", "from 1B to 3MiB"),
    ("window_max_bytes", "0", "from 1B to 3MiB"),
    ("max_message_bytes", "256KB", "from 1B to 3MiB"),
    ("max_message_bytes", "0.5", "from 1B to 3MiB"),
    ("max_conversation_messages", "-1", "from 0 to 1000000000"),
    ("max_conversation_bytes", "1025MiB", "from 0B to 1024MiB"),
    ("max_conversation_bytes", "1KiB", "at least the largest message, 256KiB, or 0 for no limit"),
    ("max_instance_messages", "many", "from 0 to 1000000000"),
    ("max_instance_buffers", "1.5", "from 0 to 1000000000"),
    ("max_store_messages", "", "from 0 to 1000000000"),
    ("max_store_buffers", "1000000001", "from 0 to 1000000000"),
    ("fallback", "drop", "error, immediate"),
    ("retries", "21", "from 0 to 20"),
    ("retries", "3.5", "from 0 to 20"),
    ("retry_base", "0", "from 10ms to 1m"),
    ("max_expiries", "0", "from 1 to 1000"),
    ("deduplication", "0", "from 1s to 30d"),
    ("retain_processed", "31d", "from 0s to 30d"),
    ("retain_status", "0", "from 1s to 30d"),
    ("lease", "11m", "from 1s to 10m"),
    ("heartbeat", "1ms", "from 100ms to 10m"),
    ("max_subscribers", "none", "from 1 to 100000"),
    ("drain_timeout", "1h", "from 0s to 10m"),
    ("late_after", "0", "from 100ms to 24h"),
    ("events", "2", "true or false"),
    ("log_level", "loud", "debug, info, warning, error"),
    ("log_format", "xml", "auto, console, json"),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    key = "fallback" if name == "default_fallback" else name
    assert getattr(load_settings(environ={env_name(key): text}), name) == value


@pytest.mark.parametrize(("key", "text", "rule"), BAD)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(
    key: str, text: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={env_name(key): text})
    sentence = str(caught.value)
    assert sentence.startswith(f"{env_name(key)} is ")
    assert f'"{shown_url(text) if key == "store_url" else text}"' in sentence
    assert rule in sentence
    assert "\n" not in sentence


def test_every_setting_has_a_good_and_a_bad_case() -> None:
    files = {"store_ca_file", "encryption_keys_file", "name_key_file", "tokens_file"}
    files |= {"tls_cert_file", "tls_key_file", "tls_client_ca_file"}
    free_text = files | {"store_username", "store_password"}
    assert set(KEYS.values()) - free_text == {name for name, _, _ in GOOD}
    assert set(KEYS) - {"store_password"} == {key for key, _, _ in BAD}


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings(environ={})
    assert settings.policy("any") == WindowPolicy()
    assert settings.retry_policy == RetryPolicy()
    assert settings.fallback("any") == "error"
    assert settings.listen == (Address("127.0.0.1", 7460),)


def test_a_conversation_is_limited_and_an_instance_by_its_own_rules(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.toml"
    file.write_text(
        "[max]\nstore_messages = 9\n[instances.own]\n"
        'max_conversation_bytes = "256KiB"\nmax_instance_buffers = 3\n'
    )
    settings = load_settings(environ={}, config_file=file)
    common = Quota(conversation_messages=1_000, conversation_bytes=8 << 20, store_messages=9)
    assert settings.quota("any") == common
    own = common._replace(conversation_bytes=256 << 10, instance_buffers=3)
    assert settings.quota("own") == own


def test_settings_made_by_hand_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_LEASE", "5s")
    monkeypatch.setenv("LEASE", "5s")
    assert Settings().lease == 30 * S


@pytest.mark.parametrize(
    ("environ", "grace_ms", "max_wait_ms"),
    [
        ({"TIDEGATE_WINDOW_DELAY": "1s"}, 1_000, 30_000),
        ({"TIDEGATE_WINDOW_DELAY": "1m"}, 2_000, 60_000),
        ({"TIDEGATE_WINDOW_DELAY": "0"}, 0, 30_000),
        ({"TIDEGATE_WINDOW_DELAY": "1m", "TIDEGATE_WINDOW_GRACE": "50s"}, 50_000, 60_000),
    ],
)
def test_a_default_that_does_not_fit_the_delay_is_moved(
    environ: dict[str, str], grace_ms: int, max_wait_ms: int
) -> None:
    policy = load_settings(environ=environ).policy("any")
    assert (policy.grace_ms, policy.max_wait_ms) == (grace_ms, max_wait_ms)


def test_any_address_is_allowed_once_the_operator_says_so() -> None:
    environ = {"TIDEGATE_LISTEN": "0.0.0.0:7460", "TIDEGATE_INSECURE_LISTEN": "true"}
    assert load_settings(environ=environ).listen == (Address("0.0.0.0", 7460),)


def test_an_authority_needs_a_store_that_speaks_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    environ = {"TIDEGATE_STORE_CA_FILE": str(tmp_path / "ca.pem")}
    with pytest.raises(ConfigError, match="rediss://"):
        load_settings(environ=environ | {"TIDEGATE_STORE_URL": "redis://h"})
    settings = load_settings(environ=environ | {"TIDEGATE_STORE_URL": "rediss://h"})
    assert settings.store_ca_file == tmp_path / "ca.pem"


def test_one_line_for_each_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"TIDEGATE_LEASE": "0", "TIDEGATE_RETRIES": "x"})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "TIDEGATE_RETRIES",
        "TIDEGATE_LEASE",
    ]


def test_a_value_with_line_breaks_stays_on_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"TIDEGATE_LEASE": "1\n2"})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/u"}, "/state/tidegate"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.local/state/tidegate"),
        ({"HOME": "/home/u"}, "/home/u/.local/state/tidegate"),
        ({}, "/var/lib/tidegate"),
        ({"TIDEGATE_DATA_DIR": "/data", "HOME": "/home/u"}, "/data"),
    ],
)
def test_the_data_directory_is_found(environ: dict[str, str], folder: str) -> None:
    assert load_settings(environ=environ).data_dir == Path(folder)


@given(st.integers(0, 3_600_000))
def test_a_duration_is_read_back_as_it_is_shown(ms: int) -> None:
    text = format_duration(timedelta(milliseconds=ms))
    assert load_settings(environ={"TIDEGATE_WINDOW_DELAY": text}).window_delay == ms * MS


def test_a_name_with_line_breaks_stays_on_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"TIDEGATE_\nX\x1b": "1"})
    assert str(caught.value).startswith(r"TIDEGATE_\nX\x1b is unknown")


def test_a_path_that_is_too_long_for_any_file_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="it must be the path of a file that exists"):
        load_settings(environ={"TIDEGATE_STORE_CA_FILE": "x" * 5000})
