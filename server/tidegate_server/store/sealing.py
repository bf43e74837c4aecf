"""What the store's files give away: with keys, neither texts nor names.

Bodies are sealed with AES-256-GCM, bound to their message, so that none can be put in another's
place. Names are sealed with AES-SIV, which gives the same name the same seal: the store finds a
conversation without knowing whose it is.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from tidegate_server.errors import StartupError
from tidegate_server.store.codec import Corrupt

_KEY_BYTES = 32
_NONCE_BYTES = 12
_SEALED = b"\0"
"""What a sealed body begins with, and no serialised message can."""
_SEALED_TEXT = "sealed:"


class Keyring:
    """The keys of bodies by name: `current` seals, all of them open."""

    def __init__(self, keys: Mapping[str, bytes], *, current: str):
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        name = current.encode()
        self._head = _SEALED + bytes([len(name)]) + name
        self._cipher = self._ciphers[current]

    def seal(self, body: bytes, context: bytes) -> bytes:
        """The body as the store gets it. `context` says where it belongs."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._head + nonce + self._cipher.encrypt(nonce, body, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The body. One that was stored before there were keys is given back as it is.

        Raises:
            Corrupt: Its key is missing, or it is not what was sealed there.
        """
        if not sealed.startswith(_SEALED):
            return sealed
        start = 2 + sealed[1] if len(sealed) > 1 else 2
        name = sealed[2:start].decode(errors="replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise Corrupt(f"a message is encrypted with key {name!r}, which this server lacks")
        nonce, rest = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, rest, context)
        except (InvalidTag, ValueError):
            raise Corrupt("an encrypted message is damaged, or not where it belongs") from None

    def seal_text(self, text: str, context: bytes) -> str:
        """A text as the store gets it; an empty one stays so."""
        if not text:
            return ""
        return _SEALED_TEXT + base64.b64encode(self.seal(text.encode(), context)).decode()

    def open_text(self, sealed: str, context: bytes) -> str:
        """The text; of one that cannot be opened, that it cannot."""
        if not sealed.startswith(_SEALED_TEXT):
            return sealed
        try:
            body = base64.b64decode(sealed.removeprefix(_SEALED_TEXT), validate=True)
            return self.open(body, context).decode()
        except ValueError:
            return "(cannot be decrypted)"


class NameKey:
    """Seals names, each always alike. It stays for the life of the store."""

    def __init__(self, key: bytes):
        self._cipher = AESSIV(hashlib.sha512(b"tidegate names " + key).digest())
        self.fingerprint = hashlib.sha256(b"tidegate fingerprint " + key).hexdigest()[:16]

    def seal(self, name: str, context: str) -> str:
        """The name as the store gets it, of the characters A-Z a-z 0-9 - _."""
        sealed = self._cipher.encrypt(name.encode(), [context.encode()])
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, sealed: str, context: str) -> str:
        """The name; what was never sealed, as a damaged one, is given back as it is."""
        try:
            data = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
            return self._cipher.decrypt(data, [context.encode()]).decode()
        except (InvalidTag, ValueError, binascii.Error):
            return sealed


class Seals(NamedTuple):
    """What is sealed: bodies, names, both or nothing."""

    bodies: Keyring | None = None
    names: NameKey | None = None


def load_keyring(path: Path) -> Keyring:
    """The keys of a file with a line each, "<name> <32 bytes in base64>"; the first one seals.

    Raises:
        StartupError: The file cannot be read, or has another form.
    """
    keys: dict[str, bytes] = {}
    for number, line in _lines(path):
        name, _, key = line.partition(" ")
        if name in keys or not 0 < len(name.encode()) < 256:
            raise StartupError(f"{path}, line {number}: the key's name is there twice, or too long")
        keys[name] = _key(key, path, number)
    if not keys:
        raise StartupError(f"{path} has no key: write a line '<name> <32 bytes in base64>'")
    return Keyring(keys, current=next(iter(keys)))


def load_name_key(path: Path) -> NameKey:
    """The key of a file whose one line is 32 bytes in base64.

    Raises:
        StartupError: The file cannot be read, or has another form.
    """
    lines = _lines(path)
    if len(lines) != 1:
        raise StartupError(f"{path} must have one line: 32 bytes in base64")
    number, line = lines[0]
    return NameKey(_key(line, path, number))


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        raise StartupError(f"{path} cannot be read as a file of keys") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _key(text: str, path: Path, number: int) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise StartupError(
            f"{path}, line {number}: a key is 32 bytes in base64, as `openssl rand -base64 32` "
            "prints them"
        )
    return key
