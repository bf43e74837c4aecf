"""Page tokens: opaque to clients, and good only for the request that they came from."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass

from tidegate_server.errors import InvalidField

LONGEST_TOKEN = 4096

Place = tuple[int, str]
"""A time, and the name of what has this time: where a listing goes on."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is listed, and the fields of the request that must stay the same from page to page."""

    kind: str
    size: int
    instance: str

    def token(self, at_ms: int, name: str) -> str:
        """Names the page after the one that ends with this place."""
        place = [self.kind, self.size, self.instance, at_ms, name]
        return base64.urlsafe_b64encode(json.dumps(place, ensure_ascii=False).encode()).decode()

    def start(self, token: str, *, is_name: Callable[[str], object]) -> Place | None:
        """Where the page that `token` names begins: after this place."""
        if not token:
            return None
        match _decode(token):
            case [self.kind, self.size, self.instance, int(at_ms), str(name)] if (
                0 <= at_ms < 1 << 53 and is_name(name)
            ):
                return at_ms, name
            case [self.kind, int(), str(), int(), str()]:
                rule = "belongs to a request with another page_size or instance"
                raise InvalidField("page_token", rule)
            case _:
                raise InvalidField("page_token", "is none that this server gave out")


def _decode(token: str) -> object:
    if len(token) > LONGEST_TOKEN:
        return None
    try:
        return json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
