"""The file of tokens: who may come in, as what, and to which instances.

    [[token]]
    name = "webhook"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    roles = ["producer"]
    instances = ["bot-1"]

It holds no token, only their hashes.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tidegate_server.config.values import matching
from tidegate_server.core.access import Access, Role, Tokens

ALL_INSTANCES = "*"


def _words(rule: str, *allowed: str) -> BeforeValidator:
    def parse(value: object) -> object:
        known = not allowed or (isinstance(value, list) and all(v in allowed for v in value))
        if not isinstance(value, list) or not value or not known:
            raise ValueError(rule)
        return value

    return BeforeValidator(parse)


_ROLES_RULE = 'a list of roles from "producer", "subscriber" and "admin"'
_NAMES_RULE = 'a list of names of instances, or ["*"] for all'
_Name = Annotated[
    str,
    matching(
        r"\*|[A-Za-z0-9._:@+-]{1,128}",
        'a list of names of instances from [A-Za-z0-9._:@+-], or ["*"] for all',
    ),
]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, matching(r"[!-~]{1,64}", "1 to 64 visible ASCII characters")]
    sha256: Annotated[
        str, matching("[0-9a-fA-F]{64}", "64 hexadecimal digits; `tidegate token` makes them")
    ]
    roles: Annotated[list[Role], _words(_ROLES_RULE, *Role)]
    instances: Annotated[list[_Name], _words(_NAMES_RULE)]

    @property
    def access(self) -> Access:
        everywhere = ALL_INSTANCES in self.instances
        instances = None if everywhere else frozenset(self.instances)
        return Access(self.name, frozenset(self.roles), instances)


def read_tokens(file: Path) -> Tokens:
    """The tokens of a file. `ValueError`: the end of the sentence "it must be ..."."""
    rule = "a TOML file with a table [[token]] for each token"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{rule} that can be read ({error.strerror})") from None
    except ValueError as error:
        # The line itself might hold what should be none of a log's.
        place = str(error).rpartition("(at ")[2].rstrip(")")
        raise ValueError(f"{rule} (there is a mistake at {place})") from None
    given: Any = table.pop("token", None)
    if table or not isinstance(given, list) or not given:
        raise ValueError(f"{rule}, at least one, and nothing else")
    entries: list[_Entry] = []
    for number, value in enumerate(given, 1):
        try:
            entries.append(_entry(value))
        except ValueError as error:
            problem = f"a file of tokens that are right; of token {number}, {error}"
            raise ValueError(problem) from None
    return _checked(entries)


def check_entry(entry: Mapping[str, object]) -> None:
    """Look whether a file may have this entry. `ValueError`: it may not, and why."""
    _entry(entry)


def _checked(entries: list[_Entry]) -> Tokens:
    found = {bytes.fromhex(entry.sha256): entry.access for entry in entries}
    if len(found) < len(entries):
        raise ValueError("a file of tokens that are all different; two have the same sha256")
    return Tokens(tuple(found.items()))


def _entry(value: object) -> _Entry:
    try:
        return _Entry.model_validate(value)
    except ValidationError as error:
        raise ValueError("; ".join(_problems(error.errors()))) from None


def _problems(found: list[ErrorDetails]) -> Iterator[str]:
    for details in found:
        key = str(details["loc"][0]) if details["loc"] else "it"
        cause = details.get("ctx", {}).get("error")
        match details["type"]:
            case "missing":
                yield f"{key} must be set"
            case "extra_forbidden":
                yield f"{key} is unknown; it has name, sha256, roles and instances"
            case _:
                yield f"{key} must be {cause or 'a table'}"
