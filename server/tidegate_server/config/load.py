"""From what is written to `Settings`, or to one sentence for each mistake."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from tidegate_server.config.addresses import shown_url
from tidegate_server.config.instances import Instance, InstanceWindow
from tidegate_server.config.push import Push
from tidegate_server.config.settings import Settings, env_name
from tidegate_server.config.sources import Given, collect, unknown
from tidegate_server.config.values import HIDDEN, Misfits
from tidegate_server.errors import StartupError

_Place = tuple[str, ...]
_TABLES = {"window": InstanceWindow, "push": Push}
_SECRETS = frozenset({("store_password",), ("push", "token"), ("push", "secret")})
_SECRET_NAMES = frozenset(place[-1] for place in _SECRETS)
"""What is called so is hidden also where it does not belong."""
_URLS = frozenset({("store_url",), ("push", "url")})


class ConfigError(StartupError):
    """Settings are wrong. The text has a line for each: its name, its value, what it must be."""

    def __init__(self, problems: list[str]):
        self.problems = [_on_one_line(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


def load_settings(
    *,
    config_file: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
    **overrides: object,
) -> Settings:
    """The settings in force.

    Strongest first: `overrides` (those that are not None), TIDEGATE_* of `environ`, files of
    secrets, `config_file` or else the file that TIDEGATE_CONFIG names, the original names in
    `environ`, defaults.

    Raises:
        ConfigError: Something is wrong, unknown or cannot be read; its text says all of it.
    """
    given, problems = collect(overrides, environ, config_file)
    try:
        settings = Settings.from_sources(
            {key: item.value for key, item in given.items()},
            {key: item.source for key, item in given.items()},
        )
    except ValidationError as error:
        problems += [line for details in error.errors() for line in _explain(details, given)]
    else:
        if not problems:
            return settings
    raise ConfigError(problems) from None


def _explain(error: ErrorDetails, given: Mapping[str, Given]) -> Iterator[str]:
    """The lines for one finding of pydantic, which knows fields but not who wrote them where."""
    at = tuple(str(part) for part in error["loc"])
    cause = error.get("ctx", {}).get("error")
    if error["type"] == "default_factory_not_called":
        return  # The value that this default depends on is wrong, and has its own line.
    if isinstance(cause, Misfits):
        for place, rule in cause.items:
            yield _sentence((*at, *place), rule, given)
    elif error["type"] == "extra_forbidden":
        model = _TABLES.get(at[-2], Instance)
        yield unknown(_title(at, given), at[-1], model.model_fields)
    elif at[-1:] == ("[key]",):
        yield f"{_title(at[:-1], given)}: the name of an instance must be {cause}"
    else:
        shape = 'a table such as [instances."bot-1"]' if at[0] == "instances" else "text"
        shape = "set" if error["type"] == "missing" else shape
        yield _sentence(at, str(cause or shape), given)


def _on_one_line(problem: str) -> str:
    """The sentence as a terminal shows it, whatever is in the names that it quotes."""
    if problem.isprintable():
        return problem
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in problem)


def _sentence(at: _Place, rule: str, given: Mapping[str, Given]) -> str:
    return f"{_title(at, given)} is {_shown(at, given)}; it must be {rule}"


def _title(at: _Place, given: Mapping[str, Given]) -> str:
    item = given.get(at[0])
    if item is None:
        return env_name(at[0])
    inner = ".".join(f'"{part}"' if n == 0 else part for n, part in enumerate(at[1:]))
    name = f"{item.name}.{inner}" if inner else item.name
    return f"{name} in {item.file}" if item.file else name


def _name(at: _Place) -> _Place:
    """The place without the name of the instance that it is of."""
    return at[2:] if at[0] == "instances" else at


def _shown(at: _Place, given: Mapping[str, Given]) -> str:
    """The value as it was written, without secrets."""
    value: object = given[at[0]].value if at[0] in given else None
    for part in at[1:]:
        value = cast(dict[str, object], value).get(part) if isinstance(value, dict) else None
    if value is None:
        return "unset"
    if _name(at) in _SECRETS or at[-1] in _SECRET_NAMES or isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, dict | list):  # whose inside may be secret
        return "a table" if isinstance(value, dict) else "a list"
    if _name(at) in _URLS:
        value = shown_url(str(value))
    return str(value).lower() if isinstance(value, bool) else json.dumps(str(value))
