"""No secret is ever shown."""

from pathlib import Path

import pytest

from tidegate_server.config import ConfigError, load_settings

CANARY = "c4nary"


@pytest.mark.parametrize(
    "environ",
    [
        {"TIDEGATE_STORE_URL": f"redis://user:{CANARY}@h:1/2"},
        {"TIDEGATE_STORE_URL": f"unix://:{CANARY}@/run/x.sock"},
        {"TIDEGATE_STORE_URL": "redis://h", "TIDEGATE_STORE_PASSWORD": CANARY},
    ],
)
def test_settings_hide_the_password(environ: dict[str, str]) -> None:
    settings = load_settings(environ=environ)
    assert settings.store_password
    assert settings.store_password.get_secret_value() == CANARY
    assert CANARY not in f"{settings!r} {settings} {settings.describe()}"
    described = {name: (value, source) for name, value, source in settings.describe()}
    assert described["TIDEGATE_STORE_PASSWORD"] == ("********", "environment")


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@h",
        f"redis://user:{CANARY}@h:x",
        f"redis://user:a/{CANARY}@h",
        f"redis://user:a@{CANARY}@h/x",
        f"redis://user:{CANARY}#b@h",
        f"redis://user:{CANARY}?b@h",
        f"redis://h?password={CANARY}",
        f"redis://u:p@h?password={CANARY}",
        f"redis://:{CANARY}",
        f"redis+cluster://:{CANARY}@h,",
        f"redis+sentinel://h,:{CANARY}@h",
        CANARY,
    ],
)
def test_a_refused_url_is_shown_without_its_secrets(url: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(url)
    for environ in ({"TIDEGATE_STORE_URL": url}, {"TIDEGATE_STORE_URL_FILE": str(file)}):
        with pytest.raises(ConfigError) as caught:
            load_settings(environ=environ)
        assert CANARY not in str(caught.value)
        assert next(iter(environ)) in str(caught.value)


def test_a_password_that_is_refused_is_hidden(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"TIDEGATE_STORE_PASSWORD": CANARY})
    assert str(caught.value).startswith("TIDEGATE_STORE_PASSWORD is ********; ")
    file = tmp_path / "t.toml"
    file.write_text(f'[store]\npasswort = "{CANARY}"\n')
    with pytest.raises(ConfigError, match=r"did you mean store\.password\?") as caught:
        load_settings(environ={}, config_file=file)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f'[instances]\ntoken = "{CANARY}"',
        f'[[instances]]\npush = {{ token = "{CANARY}" }}',
        f'[instances.bot]\npush = [{{ secret = "{CANARY}" }}]',
    ],
)
def test_a_secret_in_the_wrong_place_is_hidden_too(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="it must be a table") as caught:
        load_settings(environ={}, config_file=file)
    assert CANARY not in str(caught.value)
