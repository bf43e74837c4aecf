"""Where settings are found: the command line, the environment, secret files, a file, old names."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tidegate_server.config.settings import KEYS, env_name

ALIASES = {
    "BUFFER_DELAY_MS": ("window_delay", "ms"),
    "GRACE_PERIOD_MS": ("window_grace", "ms"),
    "MAX_RETRY_ATTEMPTS": ("retries", ""),
    "PROCESSED_BUFFER_TTL": ("retain_processed", "s"),
    "BUFFER_TTL_SECONDS": ("retain_status", "s"),
    "TIMER_TTL_SECONDS": ("late_after", "s"),
    "ENABLE_BUFFER_MONITORING": ("events", ""),
}
"""Names of the system that Tidegate replaces: the setting, and the unit that the name counts in."""

_UNITS = {"ms": "milliseconds", "s": "seconds"}
_CONFIG = "TIDEGATE_CONFIG"
_SECRET_FILES = {f"{env_name(key)}_FILE": key for key in ("store_url", "store_password")}
_CLIENT_KEYS = (
    "address",
    "token",
    "token_file",
    "insecure_token",
    "ca_file",
    "cert_file",
    "key_file",
)
_OF_CLIENTS = {env_name(key) for key in _CLIENT_KEYS}
_KNOWN = {env_name(key): key for key in KEYS}
# Kubernetes puts these into every container beside a Service whose name begins with "tidegate".
_OF_KUBERNETES = re.compile(
    r"TIDEGATE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_[A-Z]+(_\w+)?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it: under which name, and where."""

    value: object
    name: str
    source: str
    file: str = ""

    @property
    def title(self) -> str:
        """The name as its author knows it."""
        return f"{self.name} in {self.file}" if self.file else self.name


Layer = dict[str, Given]


def collect(
    overrides: Mapping[str, object], environ: Mapping[str, str], config_file: str | Path | None
) -> tuple[Layer, list[str]]:
    """What is given, the strongest source of each setting, and a sentence for each mistake."""
    problems: list[str] = []
    layers = (
        _defaults(environ),
        _aliases(environ, problems),
        _file(config_file, environ, problems),
        _secret_files(environ, problems),
        _environment(environ, problems),
        _command_line(overrides, problems),
    )
    given: Layer = {}
    for layer in layers:
        given |= layer
    return given, problems


def _command_line(overrides: Mapping[str, object], problems: list[str]) -> Layer:
    layer: Layer = {}
    for key, value in overrides.items():
        name = "--" + key.replace("_", "-")
        if key not in KEYS:
            problems.append(unknown(name, name, ("--" + known.replace("_", "-") for known in KEYS)))
        elif value is not None:
            layer[key] = Given(value, name, "command line")
    return layer


def _environment(environ: Mapping[str, str], problems: list[str]) -> Layer:
    layer: Layer = {}
    for name, value in sorted(environ.items()):
        if name in _KNOWN:
            layer[_KNOWN[name]] = Given(value, name, "environment")
        elif name.startswith("TIDEGATE_") and not _is_for_others(name, value):
            problems.append(unknown(name, name, _KNOWN))
    return layer


def _is_for_others(name: str, value: str) -> bool:
    if name in _OF_CLIENTS or name in _SECRET_FILES or name == _CONFIG:
        return True
    if name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://")):
        return True
    return _OF_KUBERNETES.fullmatch(name) is not None


def _secret_files(environ: Mapping[str, str], problems: list[str]) -> Layer:
    layer: Layer = {}
    for name, key in _SECRET_FILES.items():
        if not (path := environ.get(name)):
            continue
        if (text := _read(Path(path), f'{name} is "{path}"', problems)) is not None:
            layer[key] = Given(text.rstrip("\r\n"), name, f"file {path}")
    return layer


def _aliases(environ: Mapping[str, str], problems: list[str]) -> Layer:
    layer: Layer = {}
    for name, (key, unit) in ALIASES.items():
        if (value := environ.get(name)) is None or env_name(key) in environ:
            continue
        if unit and not re.fullmatch("[0-9]+", value):
            problems.append(f'{name} is "{value}"; it must be a whole number of {_UNITS[unit]}')
            continue
        layer[key] = Given(value + unit, name, f"alias {name}")
    return layer


def _defaults(environ: Mapping[str, str]) -> Layer:
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if not os.path.isabs(state):  # noqa: PTH117  # the rule of XDG is about the text
        state = f"{home}/.local/state" if home else ""
    return {"data_dir": Given(f"{state}/tidegate", "TIDEGATE_DATA_DIR", "default")} if state else {}


def _file(chosen: str | Path | None, environ: Mapping[str, str], problems: list[str]) -> Layer:
    name = f'--config is "{chosen}"' if chosen else f'{_CONFIG} is "{environ.get(_CONFIG)}"'
    path = str(chosen or environ.get(_CONFIG) or "")
    if not path or (text := _read(Path(path), name, problems)) is None:
        return {}
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        problems.append(_syntax(path, str(error)))
        return {}
    return _from_table(table, path, problems)


def _from_table(table: dict[str, object], path: str, problems: list[str]) -> Layer:
    layer: Layer = {}
    for name, value in _flatten(table):
        key = name.replace(".", "_")
        given = Given(value, name, f"file {path}", path)
        if key not in KEYS and key != "instances":
            problems.append(unknown(given.title, name, _spelled_like(name)))
        elif key in layer:
            problems.append(f"{given.title} is set a second time, as {layer[key].name}")
        else:
            layer[key] = given
    return layer


def _flatten(table: Mapping[str, object], group: str = "") -> Iterator[tuple[str, object]]:
    """Each value with its dotted name; `[window] delay` is "window.delay"."""
    for key, value in table.items():
        name = f"{group}.{key}" if group else key
        if not isinstance(value, dict) or name == "instances":
            yield name, value
        elif value:
            yield from _flatten(cast(dict[str, object], value), name)
        elif not any(known.startswith(f"{name}_") for known in KEYS):
            yield name, value


def _spelled_like(name: str) -> Iterator[str]:
    """The known names, written with the table that `name` is written with."""
    group = name.rpartition(".")[0]
    for key in (*KEYS, "instances"):
        yield key.replace("_", ".", 1) if group and key.startswith(f"{group}_") else key


def unknown(title: str, name: str, known: Iterable[str]) -> str:
    """The sentence that refuses a name, with the nearest one that would be right."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"{title} is unknown" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _read(path: Path, what: str, problems: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        problems.append(f"{what}; it must be the path of a text file in UTF-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(f"{what}; it must be the path of a file that can be read: {reason}")
    return None


def _syntax(path: str, error: str) -> str:
    """The parser's "Expected ... (at line 3, column 5)", in the order in which one looks."""
    sentence, _, place = error.rstrip(")").rpartition(" (at ")
    return f"{path}, {place}: {sentence[:1].lower()}{sentence[1:]}" if place else f"{path}: {error}"
