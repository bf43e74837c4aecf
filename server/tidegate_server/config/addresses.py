"""How addresses are written: where to listen, where the store is, and what is public."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BeforeValidator

from tidegate_server.config.values import HIDDEN

_MAX_SOCKET_PATH = 107
_TRANSLATED = IPv6Network("64:ff9b::/96")

ADDRESS_RULE = "host:port, [v6 address]:port or unix:/path, several separated by commas"
URL_RULE = (
    "redis://host:port/db, rediss://host:port/db, unix:///path?db=0,"
    " redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port"
    " with special characters of user and password percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and a port (0: any free one), or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_public(host: str) -> bool:
    """Whether an IP address is one of the open internet.

    None of these is: private, loopback, link-local, shared, multicast, reserved, unspecified, and
    an IPv6 address that stands for such an IPv4 one. `ValueError`: it is no IP address.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        address = _inner(address) or address
    odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not odd and not getattr(address, "is_site_local", False)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to."""
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def addresses(*, optional: bool = False, sockets: bool = True) -> BeforeValidator:
    """Addresses to listen on, separated by commas. `optional`: none is fine; `sockets`: unix:/path.

    The result is a tuple of `Address`.
    """
    rule = ADDRESS_RULE if sockets else ADDRESS_RULE.replace(" or unix:/path", "")
    rule += ", or empty" if optional else ""

    def parse(value: object) -> tuple[Address, ...]:
        found = _parse_all(value, rule)
        if not (found or optional) or (not sockets and any(address.path for address in found)):
            raise ValueError(rule)
        return found

    return BeforeValidator(parse)


def _parse_all(value: object, rule: str) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value else []
    if not isinstance(value, list | tuple):
        raise ValueError(rule)
    try:
        return tuple(
            part if isinstance(part, Address) else parse_address(str(part))
            for part in cast(Sequence[object], value)
        )
    except ValueError:
        raise ValueError(rule) from None


def parse_address(text: str) -> Address:
    """The address that `text` names; `ValueError` if it names none."""
    if found := re.fullmatch(r"unix:(?://)?(/.+)", text):
        if len(found[1].encode()) > _MAX_SOCKET_PATH:
            raise ValueError(f"a path of at most {_MAX_SOCKET_PATH} bytes")
        return Address(path=found[1])
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65_535:
        raise ValueError(ADDRESS_RULE)
    if found[1]:
        try:
            return Address(str(IPv6Address(found[1])), int(found[3]))
        except AddressValueError:
            raise ValueError(ADDRESS_RULE) from None
    return Address(found[2], int(found[3]))


def split_credentials(url: str) -> tuple[str, str, str]:
    """A URL without its user and password, then these two, decoded; each may be empty."""
    scheme, colon, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, at, _ = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    return scheme + colon + rest[len(credentials + at) :], unquote(user), unquote(password)


def shown_url(url: str) -> str:
    """A URL, however badly written, without what may be a secret in it."""
    scheme, found, rest = url.partition("://")
    if not found:
        return HIDDEN
    base = scheme + "://"
    if "@" in rest:
        return f"{base}***@{rest.rpartition('@')[2].partition('?')[0]}"
    host = r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*)(:[0-9]*)?"
    return url if re.fullmatch(rf"{host}(,{host})*(/[\w./-]*)?", rest) else base + "***"


def _parse_store_url(value: object) -> str | None:
    """The store's URL without user and password, checked; None for nothing: the embedded store."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or re.search(r"\s", value):
        raise ValueError(URL_RULE)
    try:
        usable = _is_guided(value) or _is_usable(value)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(URL_RULE)
    return value


def _is_usable(url: str) -> bool:
    parts = urlsplit(url)
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    database = "".join(query.pop("db", ["0"]))
    if query or parts.fragment or not re.fullmatch("[0-9]{1,5}", database):
        return False
    if parts.scheme == "unix":
        return not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or "@" in parts.netloc:
        return False
    return parts.port != 0 and bool(re.fullmatch("(/[0-9]{0,5})?", parts.path))


def _is_guided(url: str) -> bool:
    """Whether it names Sentinels and a service, or nodes of a cluster, which has no databases."""
    path = {"sentinel": r"/[\w.-]+(/[0-9]{1,5})?", "cluster": "/?"}
    found = re.fullmatch(r"rediss?\+(sentinel|cluster)://([^/]+)(.*)", url)
    if found is None or not re.fullmatch(path[found[1]], found[3]):
        return False
    return all(_is_place(part) for part in found[2].split(","))


def _is_place(text: str) -> bool:
    host, port = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", "[0-9]{1,5}"
    found = re.fullmatch(f"({host})(:({port}))?", text)
    return found is not None and 0 < int(found[3] or 1) <= 65_535


STORE_URL = BeforeValidator(_parse_store_url)
"""The URL of the store."""
