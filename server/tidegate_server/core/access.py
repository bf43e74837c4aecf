"""Who may do what: roles, and the instances that a token covers."""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from tidegate_server.errors import NotAllowed


class Role(StrEnum):
    """What a token may be used for: all of BufferService, DeliveryService, AdminService."""

    PRODUCER = "producer"
    SUBSCRIBER = "subscriber"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do. `instances` is None for all of them."""

    name: str
    roles: frozenset[Role]
    instances: frozenset[str] | None

    def must_have(self, role: Role) -> None:
        """Raises `NotAllowed` without the role."""
        if role not in self.roles:
            raise NotAllowed(f"this token may not call that: it lacks the role {role}")

    def covers(self, instance: str) -> bool:
        """Whether the caller may touch the instance."""
        return self.instances is None or instance in self.instances

    def must_cover(self, instance: str) -> None:
        """Raises `NotAllowed` for an instance that is none of the caller's."""
        if not self.covers(instance):
            raise NotAllowed("this token does not cover that instance")

    def one(self, instance: str | None) -> str | None:
        """The instance that a listing is limited to, None for all. Raises `NotAllowed`."""
        if instance is not None:
            self.must_cover(instance)
        elif self.instances is not None:
            raise NotAllowed("this token does not cover all instances: name one of its own")
        return instance

    def some(self, instances: frozenset[str]) -> frozenset[str]:
        """The instances of a subscriber; for none those of the caller, empty if that is all.

        Raises:
            NotAllowed: One of them is none of the caller's.
        """
        for instance in instances:
            self.must_cover(instance)
        return instances or self.instances or frozenset()


EVERYTHING = Access("", frozenset(Role), None)
"""What everybody may do where there are no tokens."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What each token may do, by its SHA-256."""

    entries: tuple[tuple[bytes, Access], ...]

    def find(self, secret: str) -> Access | None:
        """What a token may do; None for one that is not known. The time tells nothing about it."""
        digest = hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
        found = None
        for known, access in self.entries:
            if hmac.compare_digest(known, digest):
                found = access
        return found
