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


ADD = _load("add", "_window", "_ids")
CLAIM = _load("claim", "_window")
ACK = _load("ack", "_window", "_settle")
NACK = _load("nack", "_window", "_settle")
EXTEND = _load("extend", "_window", "_settle")
EXPIRE = _load("expire", "_window", "_settle")
FLUSH = _load("flush", "_window")
HOLD = _load("hold", "_window")
AMEND = _load("amend", "_window", "_row")
REMOVE = _load("remove", "_window", "_row", "_out")
DISCARD = _load("discard", "_window", "_row", "_out")
STATUS = _load("status")
HORIZON = _load("horizon")
REQUEUE = _load("requeue", "_window", "_settle", "_ids")
DELETE = _load("delete", "_window", "_settle")
ERASE = _load("erase")
RECONCILE = _load("reconcile", "_window")

ALL = (
    *(ADD, CLAIM, ACK, NACK, EXTEND, EXPIRE),
    *(FLUSH, HOLD, AMEND, REMOVE, DISCARD),
    *(STATUS, HORIZON, REQUEUE, DELETE, ERASE, RECONCILE),
)
