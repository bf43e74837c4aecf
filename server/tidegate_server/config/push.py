"""Where the batches of an instance are pushed to: its endpoint."""

import base64
import binascii
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, model_validator

from tidegate_server.config.addresses import is_public
from tidegate_server.config.values import FILE, FLAG, Misfits, duration, number

_URL_RULE = (
    "an https:// or http:// URL without user, password and fragment, with special characters"
    " percent-encoded"
)
_TOKEN = "a token without spaces, of visible ASCII characters"  # noqa: S105  # it is a sentence
_KEYS = (
    '"whsec_" and 24 to 64 bytes in base64; two of them with a space between while one replaces'
    " the other"
)


def _parse_url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(_URL_RULE)
    try:
        parts = urlsplit(value)
        usable = parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        usable = usable and parts.scheme in ("http", "https") and "@" not in parts.netloc
    if not usable or "#" in value:
        raise ValueError(_URL_RULE)
    return value


def _secret(check: Callable[[str], bool], rule: str) -> BeforeValidator:
    def parse(value: object) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or not check(text):
            raise ValueError(rule)
        return SecretStr(text)

    return BeforeValidator(parse)


def _is_token(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None


def _are_secrets(text: str) -> bool:
    return bool(text.split()) and all(map(_is_secret, text.split()))


def _is_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith("whsec_") and 24 <= len(key) <= 64


_KEPT_IN_FILES = {"token": (_is_token, _TOKEN), "secret": (_are_secrets, _KEYS)}


class Push(BaseModel):
    """The endpoint of an instance, to which its batches are pushed by HTTP.

    `timeout` is for one attempt, `max_in_flight` the most batches at a time. What is in
    `token_file` or `secret_file` is in `token` or `secret` as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, BeforeValidator(_parse_url)]
    token: Annotated[SecretStr | None, _secret(*_KEPT_IN_FILES["token"])] = None
    token_file: Annotated[Path | None, FILE] = None
    secret: Annotated[SecretStr | None, _secret(*_KEPT_IN_FILES["secret"])] = None
    secret_file: Annotated[Path | None, FILE] = None
    timeout: Annotated[timedelta, duration("100ms", "5m")] = timedelta(seconds=20)
    max_in_flight: Annotated[int, number(1, 100)] = 4
    allow_private: Annotated[bool, FLAG] = False

    @property
    def bearer(self) -> str:
        """The token that the endpoint wants; empty for none."""
        return self.token.get_secret_value() if self.token else ""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys to sign with; each gives a signature."""
        secrets = self.secret.get_secret_value().split() if self.secret else []
        return tuple(base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets)

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        values = cast(dict[str, Any], given)
        for key in _KEPT_IN_FILES:
            if path := values.get(f"{key}_file"):
                values = values | {key: _read(key, values.get(key), path)}
        return values

    @model_validator(mode="after")
    def _is_safe(self) -> "Push":
        host = urlsplit(self.url).hostname or ""
        if not self.allow_private and (self.url.startswith("http:") or not _may_be_public(host)):
            rule = "an https:// URL with a public address, unless allow_private is true beside it"
            raise Misfits([(("url",), rule)])
        return self


def _may_be_public(host: str) -> bool:
    """No for what surely is not. What a name leads to is looked at when it is connected to."""
    try:
        return is_public(host)
    except ValueError:
        return host != "localhost"


def _read(key: str, inline: object, path: object) -> str | None:
    """The secret in the file. None if there is no such file, which has a sentence of its own."""
    place = (f"{key}_file",)
    if inline is not None:
        raise Misfits([(place, f"unset if {key} is set")])
    check, rule = _KEPT_IN_FILES[key]
    try:
        text = Path(str(path)).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise Misfits([(place, f"a file that holds {rule}")]) from None
    except PermissionError as error:
        problem = f"the path of a file that can be read: {error.strerror}"
        raise Misfits([(place, problem)]) from None
    except (OSError, ValueError, RuntimeError):
        return None
    if not check(text):
        raise Misfits([(place, f"a file that holds {rule}")])
    return text
