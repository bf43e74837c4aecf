"""Who may come in: asked for every call, and for every stream again when the tokens change."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from tidegate_server.core.access import EVERYTHING, Access, Tokens
from tidegate_server.errors import BadCredentials

_SCHEME = "bearer "


class Guard:
    """Knows the tokens in force; None: everybody may do everything."""

    def __init__(self, tokens: Tokens | None = None):
        self._tokens = tokens
        self._held: dict[object, tuple[str, Access, Callable[[], None]]] = {}

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._tokens is None

    def admit(self, authorization: str) -> Access:
        """What a caller with this `authorization` may do.

        Raises:
            BadCredentials: It has no token, or one that is not known.
        """
        if self._tokens is None:
            return EVERYTHING
        if not authorization:
            raise BadCredentials("this server wants a token: authorization: Bearer <token>")
        is_bearer = authorization[: len(_SCHEME)].lower() == _SCHEME
        found = self._tokens.find(authorization[len(_SCHEME) :].strip()) if is_bearer else None
        if found is None:
            raise BadCredentials("this server does not know that token")
        return found

    def replace(self, tokens: Tokens) -> None:
        """Go by other tokens from now on, and end what is held under those that changed."""
        self._tokens = tokens
        for authorization, access, end in list(self._held.values()):
            try:
                is_same = self.admit(authorization) == access
            except BadCredentials:
                is_same = False
            if not is_same:
                end()

    @contextmanager
    def holding(
        self, authorization: str, access: Access, end: Callable[[], None]
    ) -> Generator[None]:
        """Have `end` called when the token means something else, or nothing any more."""
        key = object()
        self._held[key] = authorization, access, end
        try:
            yield
        finally:
            del self._held[key]
