"""Where settings come from, and which source wins."""

from datetime import timedelta
from pathlib import Path

import pytest

from tidegate_server.config import ConfigError, load_settings

S = timedelta(seconds=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.toml"


def problems(environ: dict[str, str], config_file: Path | None = None, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ=environ, config_file=config_file, **more)
    return str(caught.value)


def test_the_stronger_source_wins(file: Path) -> None:
    file.write_text('window_delay = "3s"')
    environ = {"BUFFER_DELAY_MS": "1000"}
    assert load_settings(environ=environ).window_delay == 1 * S
    environ["TIDEGATE_CONFIG"] = str(file)
    assert load_settings(environ=environ).window_delay == 3 * S
    environ["TIDEGATE_WINDOW_DELAY"] = "4s"
    assert load_settings(environ=environ).window_delay == 4 * S
    assert load_settings(environ=environ, window_delay="5s").window_delay == 5 * S


def test_an_option_that_was_not_given_changes_nothing() -> None:
    assert load_settings(environ={"TIDEGATE_LEASE": "9s"}, lease=None).lease == 9 * S


def test_the_file_of_the_command_line_wins_over_that_of_the_environment(file: Path) -> None:
    file.write_text("retries = 1")
    environ = {"TIDEGATE_CONFIG": "/no/such/file"}
    assert load_settings(environ=environ, config_file=file).retries == 1


def test_a_secret_is_read_from_a_file_and_the_variable_wins(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://user:one@h\n")
    (tmp_path / "password").write_text("two\n")
    environ = {"TIDEGATE_STORE_URL_FILE": str(tmp_path / "url")}
    settings = load_settings(environ=environ)
    assert settings.store_url == "redis://h"
    assert settings.store_username == "user"
    assert settings.store_password
    assert settings.store_password.get_secret_value() == "one"

    environ["TIDEGATE_STORE_PASSWORD_FILE"] = str(tmp_path / "password")
    settings = load_settings(environ=environ)
    assert settings.store_password
    assert settings.store_password.get_secret_value() == "two"

    settings = load_settings(environ=environ | {"TIDEGATE_STORE_PASSWORD": "three"})
    assert settings.store_password
    assert settings.store_password.get_secret_value() == "three"


def test_credentials_of_the_url_are_decoded() -> None:
    settings = load_settings(environ={"TIDEGATE_STORE_URL": "redis://:p%40s%2Fs@h:1/2"})
    assert settings.store_url == "redis://h:1/2"
    assert settings.store_username is None
    assert settings.store_password
    assert settings.store_password.get_secret_value() == "p@s/s"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("BUFFER_DELAY_MS", "2500", "window_delay", 2.5 * S),
        ("GRACE_PERIOD_MS", "500", "window_grace", 0.5 * S),
        ("MAX_RETRY_ATTEMPTS", "5", "retries", 5),
        ("PROCESSED_BUFFER_TTL", "300", "retain_processed", 300 * S),
        ("BUFFER_TTL_SECONDS", "60", "retain_status", 60 * S),
        ("TIMER_TTL_SECONDS", "45", "late_after", 45 * S),
        ("ENABLE_BUFFER_MONITORING", "false", "events", False),
    ],
)
def test_the_original_names_still_work(name: str, text: str, field: str, value: object) -> None:
    assert getattr(load_settings(environ={name: text}), field) == value


def test_an_original_name_keeps_its_unit() -> None:
    text = problems({"BUFFER_DELAY_MS": "8s"})
    assert text == 'BUFFER_DELAY_MS is "8s"; it must be a whole number of milliseconds'
    assert problems({"MAX_RETRY_ATTEMPTS": "99"}).startswith('MAX_RETRY_ATTEMPTS is "99"; it must')


def test_keys_of_the_file_may_stand_in_tables(file: Path) -> None:
    file.write_text(
        'listen = ["127.0.0.1:1", "unix:/x"]\nevents = false\n[window]\ndelay = 2\n[store]\n'
        'url = "redis://h"\nprefix = "a"\n[log]\n'
    )
    settings = load_settings(environ={}, config_file=file)
    assert settings.window_delay == 2 * S
    assert (settings.store_url, settings.store_prefix) == ("redis://h", "a")
    assert [str(address) for address in settings.listen] == ["127.0.0.1:1", "unix:/x"]
    assert settings.events is False


def test_a_key_that_is_set_twice_is_refused(file: Path) -> None:
    file.write_text('window_delay = "1s"\nwindow.delay = "2s"')
    assert problems({}, file) == f"window.delay in {file} is set a second time, as window_delay"


def test_a_wrong_value_of_the_file_is_named_with_the_file(file: Path) -> None:
    file.write_text('[window]\nmax_messages = 0\n[store]\nusername = 5\nurl = "redis://h"\n')
    lines = problems({}, file).splitlines()
    assert f'store.username in {file} is "5"; it must be text' in lines
    assert any(line.startswith(f'window.max_messages in {file} is "0"; ') for line in lines)


def test_unknown_names_are_refused_with_the_nearest(file: Path) -> None:
    file.write_text("retrys = 1\n[window]\ndely = 1\n[zzz]\n")
    assert problems({"TIDEGATE_LISTN": "x"}, file, leese="1s").splitlines() == [
        f"retrys in {file} is unknown; did you mean retries?",
        f"window.dely in {file} is unknown; did you mean window.delay?",
        f"zzz in {file} is unknown",
        "TIDEGATE_LISTN is unknown; did you mean TIDEGATE_LISTEN?",
        "--leese is unknown; did you mean --lease?",
    ]


def test_variables_of_others_are_left_alone() -> None:
    load_settings(
        environ={
            "TIDEGATE_ADDRESS": "h:1",
            "TIDEGATE_TOKEN": "t",
            "TIDEGATE_SERVICE_HOST": "10.0.0.1",
            "TIDEGATE_SERVICE_PORT": "7460",
            "TIDEGATE_SERVICE_PORT_GRPC": "7460",
            "TIDEGATE_PORT": "tcp://10.0.0.1:7460",
            "TIDEGATE_PORT_7460_TCP_ADDR": "10.0.0.1",
            "TIDEGATE_EU_SERVICE_HOST": "10.0.0.2",
            "HOST": "h",
            "tidegate_lease": "x",
        }
    )


def test_a_port_that_kubernetes_did_not_write_is_a_mistake() -> None:
    assert problems({"TIDEGATE_PORT": "7460"}).startswith("TIDEGATE_PORT is unknown")


@pytest.mark.parametrize("name", ["TIDEGATE_CONFIG", "TIDEGATE_STORE_URL_FILE"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing", tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert problems({name: str(missing)}).startswith(f'{name} is "{missing}"; it must be the path')
    assert problems({name: str(tmp_path)}).startswith(f'{name} is "{tmp_path}"; it must be')
    assert "UTF-8" in problems({name: str(binary)})


@pytest.mark.parametrize(
    ("text", "line"),
    [("lease = 1\nretries =", 2), ("a = 1\na = 2", 2), ("[window\n", 1)],
)
def test_bad_toml_is_refused_with_file_and_line(file: Path, text: str, line: int) -> None:
    file.write_text(text)
    sentence = problems({}, file)
    assert sentence.startswith(f"{file}, ")
    assert f"line {line}" in sentence or "end of document" in sentence


def test_instances_differ_from_the_default(file: Path) -> None:
    file.write_text(
        '[instances."bot-1"]\nfallback = "immediate"\nmax_delay = "1m"\n'
        '[instances."bot-1".window]\nmode = "sliding"\ndelay = "1s"\nmax_messages = 7\n'
        '[instances."bot-2"]\nwindow.delay = "2m"\nwindow.max_bytes = "1KiB"\n'
    )
    settings = load_settings(environ={"TIDEGATE_WINDOW_GRACE": "3s"}, config_file=file)
    first, second, other = (settings.policy(name) for name in ("bot-1", "bot-2", "bot-3"))
    assert (first.delay_ms, first.grace_ms, first.max_messages) == (1_000, 1_000, 7)
    assert (second.delay_ms, second.grace_ms, second.max_wait_ms) == (120_000, 3_000, 120_000)
    assert (second.max_bytes, other.delay_ms, other.grace_ms) == (1024, 8_000, 3_000)
    assert [settings.fallback(name) for name in ("bot-1", "bot-2")] == ["immediate", "error"]
    assert [settings.max_delay(name) for name in ("bot-1", "bot-2")] == [60 * S, 3600 * S]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "window.grace = 9",
            '.window.grace in FILE is "9"; it must be at most its window\'s delay',
        ),
        (
            "window.max_wait = 7",
            '.window.max_wait in FILE is "7"; it must be at least its window\'s',
        ),
        ("max_delay = 7", '.max_delay in FILE is "7"; it must be at least its window\'s delay, 8s'),
        ("window.delay = 'x'", '.window.delay in FILE is "x"; it must be a duration'),
        ("fallbak = 1", ".fallbak in FILE is unknown; did you mean fallback?"),
        ("window.dely = 1", ".window.dely in FILE is unknown; did you mean delay?"),
        ("window = 1", '.window in FILE is "1"; it must be a table'),
    ],
)
def test_a_wrong_instance_is_refused(file: Path, text: str, expected: str) -> None:
    file.write_text(f'[instances."b.1"]\n{text}\n')
    expected = 'instances."b.1"' + expected.replace("FILE", str(file))
    assert problems({}, file).startswith(expected)


def test_a_wrong_name_of_an_instance_is_refused(file: Path) -> None:
    file.write_text('[instances."a b"]\n')
    assert "1 to 128 characters" in problems({}, file)
    file.write_text("instances = 3\n")
    assert problems({}, file).startswith(f'instances in {file} is "3"; it must be a table')


def test_describe_says_what_is_in_force_and_why(file: Path) -> None:
    file.write_text('max_message_bytes = "1MiB"\n[instances."bot-1"]\nwindow.delay = "2s"\n')
    settings = load_settings(
        environ={"TIDEGATE_LEASE": "90", "BUFFER_DELAY_MS": "1000", "TIDEGATE_HTTP_LISTEN": ""},
        config_file=file,
        log_level="debug",
    )
    described = {name: (value, source) for name, value, source in settings.describe()}
    assert described["TIDEGATE_LEASE"] == ("1m30s", "environment")
    assert described["TIDEGATE_WINDOW_DELAY"] == ("1s", "alias BUFFER_DELAY_MS")
    assert described["TIDEGATE_WINDOW_GRACE"] == ("1s", "default")
    assert described["TIDEGATE_MAX_MESSAGE_BYTES"] == ("1MiB", f"file {file}")
    assert described["TIDEGATE_LOG_LEVEL"] == ("debug", "command line")
    assert described["TIDEGATE_HTTP_LISTEN"] == ("off", "environment")
    assert described["TIDEGATE_STORE_URL"] == ("unset", "default")
    assert described["TIDEGATE_FALLBACK"] == ("error", "default")
    assert described['instances."bot-1".window.delay'] == ("2s", f"file {file}")
