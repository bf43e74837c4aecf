"""The Lua scripts: loaded from `lua/`, each with the preludes that it needs."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's whole text and the name that EVALSHA knows it by."""

    name: str
    text: str
    sha: str


def _load(name: str, *preludes: str) -> Script:
    folder = files("tidegate_server.store").joinpath("lua")
    parts = ("_prelude", *preludes, name)
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ADD = _load("add", "_window")
CLAIM = _load("claim", "_window")
ACK = _load("ack", "_window", "_settle")
NACK = _load("nack", "_window", "_settle")
EXTEND = _load("extend", "_window", "_settle")
EXPIRE = _load("expire", "_window", "_settle")
FLUSH = _load("flush", "_window")
STATUS = _load("status")
HORIZON = _load("horizon")
RECONCILE = _load("reconcile", "_window")

ALL = (ADD, CLAIM, ACK, NACK, EXTEND, EXPIRE, FLUSH, STATUS, HORIZON, RECONCILE)
