"""What must hold of the parts that need no server, for any bytes: a function for each.

Each takes bytes and fails with AssertionError, or with whatever else must not happen.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tests.fuzz import wire
from tests.fuzz.dice import Dice
from tidegate.v1 import buffer_service_pb2 as rpc
from tidegate.v1 import types_pb2 as pb
from tidegate_server.api import convert, validate
from tidegate_server.config import ConfigError, load_settings
from tidegate_server.config.settings import KEYS, env_name
from tidegate_server.config.sources import ALIASES
from tidegate_server.core.access import EVERYTHING
from tidegate_server.core.model import Conversation, StoredMessage, WindowPolicy
from tidegate_server.errors import InvalidField, NotFound, TidegateError
from tidegate_server.metrics import Metrics
from tidegate_server.store import notices
from tidegate_server.store.codec import Corrupt, decode, encode
from tidegate_server.store.keys import Keys, cid_of, conversation_of
from tidegate_server.store.redis import RedisStore
from tidegate_server.store.signals import EventKind, LiveEvent, Notice, NoticeKind

Target = Callable[[bytes], None]

CANARY = "c4nary"


def codec(data: bytes) -> None:
    """What is encoded can be decoded; what is no message is `Corrupt`, and nothing worse."""
    dice = Dice(data)
    stored = StoredMessage(
        sequence=dice.number(0, 1 << 53),
        received_at_ms=dice.number(0, 1 << 53),
        payload_bytes=dice.number(0, 1 << 53),
        flush=dice.below(2) == 1,
        id="".join(c for c in dice.text() if c.isprintable()),
        body=dice.take(),
        amended_at_ms=dice.number(0, 1 << 53),
    )
    assert decode(encode(stored)) == stored
    for damaged in (data, dice.mutated(encode(stored))):
        try:
            found = decode(damaged)
        except Corrupt:
            continue
        assert decode(encode(found)) == found
        convert.try_fill_message(pb.BufferedMessage(), found)


def keys(data: bytes) -> None:
    """Names that are let in are told apart, come back as they were, and stay in their slot."""
    dice = Dice(data)
    first, second = _conversation(dice), _conversation(dice)
    for conversation in (first, second):
        if conversation is None:
            continue
        cid = cid_of(conversation)
        assert conversation_of(cid) == conversation == conversation_of(cid.encode())
        room = Keys(dice.pick(("tg", "a:b", "T-_9")), dice.below(300))
        names = [*room.conversation(conversation), *room.seen(conversation)]
        assert {_hash_tag(name) for name in names} == {f"p{room.partition}"}
        assert room.cid_in(room.of("c", cid).encode()) == cid
    if first and second:
        assert (first == second) == (cid_of(first) == cid_of(second))


def _conversation(dice: Dice) -> Conversation | None:
    try:
        return validate.conversation(
            dice.pick(("bot", "b:1", "a@b+c")) if dice.often() else dice.text(), dice.text()
        )
    except InvalidField:
        return None


def _hash_tag(name: str) -> str:
    """What decides on the slot of a key: the first pair of braces that holds something."""
    begin = name.index("{")
    return name[begin + 1 : name.index("}", begin)]


def requests(data: bytes) -> None:
    """What may be in a request is a value to go on with, or an error of the contract."""
    dice = Dice(data)
    raw = wire.request(dice, dice.pick(wire.METHODS[:3]))
    try:
        request: Any = rpc.AddMessageRequest.FromString(raw)
    except DecodeError:
        return
    try:
        conversation = validate.conversation(request.instance, request.conversation)
        size = validate.payload_bytes(request.message, most=1000)
        policy = validate.policy(request.policy, WindowPolicy(), None)
        name = validate.required_message_id(request.message.id, "message.id")
    except TidegateError:
        return
    _check_policy(policy)
    assert size <= 1000
    stored = StoredMessage(
        sequence=1,
        received_at_ms=1,
        payload_bytes=size,
        flush=request.flush,
        id=name,
        body=convert.body(request.message, {}),
    )
    element = decode(encode(stored))
    assert element == stored
    assert "\n" not in cid_of(conversation)
    given = pb.BufferedMessage()
    convert.fill_message(given, element)
    assert given.message == request.message


def _check_policy(policy: WindowPolicy) -> None:
    assert 0 <= policy.grace_ms <= policy.delay_ms <= policy.max_wait_ms <= 24 * 3_600_000
    assert policy.delay_ms <= 3_600_000
    assert 1 <= policy.max_messages <= 500
    assert 1 <= policy.max_bytes <= 3 << 20


def fields(data: bytes) -> None:
    """The rules of single fields refuse with an error of the contract, or give a proper value."""
    dice = Dice(data)
    method = dice.pick(wire.METHODS)
    request: Any = GetMessageClass(method.input_type)()
    try:
        request.ParseFromString(wire.request(dice, method))
    except DecodeError:
        return
    for name, rule in _RULES.items():
        if name in request.DESCRIPTOR.fields_by_name:
            with suppress(InvalidField, NotFound):
                rule(request, getattr(request, name))


def _check_lease(request: Message, value: Any) -> None:
    lease_ms = validate.lease_ms(request, value, None)
    assert lease_ms is None or 1_000 <= lease_ms <= 600_000


def _check_conversation(request: Message, value: Any) -> None:
    if isinstance(value, str):
        validate.conversation("bot", value)
    else:
        validate.conversation_ref(request, value, EVERYTHING)


_RULES: dict[str, Callable[[Any, Any], object]] = {
    "lease_duration": _check_lease,
    "conversation": _check_conversation,
    "instance": lambda _, value: validate.instance_filter(value),
    "instances": lambda _, value: validate.instances(value),
    "subscriber_id": lambda _, value: validate.subscriber_id(value),
    "batch_id": lambda _, value: validate.batch_id(value),
    "batch_ids": lambda _, value: validate.batch_ids(value),
    "lease_token": lambda _, value: validate.lease_token(value),
    "page_size": lambda _, value: validate.page_size(value),
    "reason": lambda _, value: validate.text(value, "reason", most=1024),
}


class _Strict:
    """A log that may warn in one line, and must not have a traceback."""

    def warning(self, event: str, **fields: object) -> None:
        """This is all right."""

    def exception(self, event: str, **fields: object) -> None:
        """This is not."""
        raise AssertionError(event)


def channels(data: bytes) -> None:
    """Whatever is published on the two channels is proper, or left out with a line in the log."""
    dice = Dice(data)
    heard: list[Notice] = []
    seen: list[LiveEvent] = []
    store = RedisStore(mock.MagicMock(), counters=Metrics())
    store.listen(heard.append)
    with mock.patch.object(notices, "_log", _Strict()), mock.patch.object(notices.Channel, "start"):
        store.watch(seen.append)
        store._notices._take(_published(dice, _NOTICE))
        store._events._take(_published(dice, _EVENT))
    for notice in heard:
        cid_of(notice.conversation).encode()
        assert isinstance(notice.at_ms + 0, int)
        notice.batch_id.encode()
        notice.mark.encode()
    for event in seen:
        convert.event(event, 4).SerializeToString()


_WHERE = Conversation("bot", "anna")
_NOTICE = notices.notice_row(Notice(NoticeKind.DUE, _WHERE, "0-1-1", 7, "mark"))
_EVENT = notices.event_row(LiveEvent(EventKind.MESSAGE_ADDED, _WHERE, 7, message_id="m1"))


def _published(dice: Dice, row: list[object]) -> bytes:
    kind = dice.below(4)
    if kind == 3:
        return dice.pick((b"[" * 100_000, b"1" * 5_000, dice.take()))
    changed = [dice.json() if dice.below(len(row)) == 0 else value for value in row]
    rows: object = [changed] if kind < 2 else dice.json()
    said = json.dumps(["other", rows]).encode()
    return dice.mutated(said) if dice.below(4) == 3 else said


def configuration(data: bytes) -> None:
    """Settings, or sentences that each fit a line and hold no secret."""
    dice = Dice(data)
    names = [_setting(dice) for _ in range(dice.below(4))]
    environ = {name: _secret(dice) if name in _SECRETS else _value(dice) for name in names}
    environ = {name: value for name, value in environ.items() if "\0" not in name + value}
    with tempfile.NamedTemporaryFile(dir=_MEMORY, suffix=".toml") as file:
        file.write(_toml(dice))
        file.flush()
        _load(environ, file.name)


def _load(environ: dict[str, str], path: str) -> None:
    problems: list[str] = []
    try:
        load_settings(environ=environ, config_file=path)
    except ConfigError as error:
        problems = error.problems or [""]
    for line in problems:
        assert len(line.splitlines()) == 1, line
        assert CANARY not in line, line


_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_SECRETS = ("TIDEGATE_STORE_URL", "TIDEGATE_STORE_PASSWORD")
_VALUES = (
    *("8s", "0s", "1h30m", "-1s", "PT8S", "1e3", "256KiB", "true", "off", "fixed", "sliding", "9"),
    *("redis://h:1/0", "http://h", "https://bot.example/x", "unix:/x", "[::1]:1", "whsec_QUJD"),
    *("127.0.0.1:0", "localhost:99999", "", " ", "~nobody/x", "/dev/null", "sentinel://h/m", "٣"),
)


def _setting(dice: Dice) -> str:
    known = [*map(env_name, KEYS), *ALIASES, "TIDEGATE_STORE_URL_FILE", "TIDEGATE_CONFIG"]
    return dice.pick(known) if dice.often() else f"TIDEGATE_{dice.text()}"


def _secret(dice: Dice) -> str:
    """A password, or a URL with one; also such as nobody would write."""
    return dice.pick(
        (
            *(f"redis://u:{CANARY}@h:1/0", f"rediss://:{CANARY}@h", f"http://u:{CANARY}@h", CANARY),
            *(f"redis://u:{CANARY}@[h/0", f"redis://u:{CANARY}@h:x", f" redis://{CANARY}@h"),
        )
    )


def _value(dice: Dice) -> str:
    return dice.pick(_VALUES) if dice.often() else dice.text()


def _toml(dice: Dice) -> bytes:
    if dice.below(4) == 3:
        return dice.rest()
    keys = [_key(dice) for _ in range(dice.below(4))]
    lines = [f"{key} = {_literal(dice, secret=key in _HIDDEN)}" for key in keys]
    for _ in range(dice.below(3)):
        lines.append(dice.pick(_TABLES))
        inner = [dice.pick(_INNER) for _ in range(dice.below(4))]
        lines += [f"{key} = {_literal(dice, secret=key in _HIDDEN)}" for key in inner]
    text = "\n".join(lines).encode(errors="replace")
    return dice.mutated(text) if dice.below(4) == 3 else text


_TABLES = (
    *('[instances."bot"]', '[instances."b.1".window]', '[instances."b.1".push]', "[window]"),
    *("[instances]", "[store]", '[instances.""]', "[[instances]]", "[push]", '["instances.x"]'),
)
_HIDDEN = ("store_url", "store_password", "store.url", "store.password", "token", "secret")
_INNER = (
    *("url", "token", "secret", "token_file", "secret_file", "timeout", "max_in_flight", "delay"),
    *("grace", "mode", "max_wait", "max_messages", "max_bytes", "fallback", "max_delay", "push"),
    *("window", "allow_private", '"ä"', "url.x"),
)


def _key(dice: Dice) -> str:
    name = dice.pick([*KEYS, "instances", "x"])
    return name.replace("_", ".", 1) if dice.below(4) == 3 else name


def _literal(dice: Dice, *, secret: bool) -> str:
    if secret and dice.often():
        return json.dumps(_secret(dice))
    match dice.below(6):
        case 0 | 1:
            return json.dumps(_value(dice))
        case 2:
            return str(dice.number())
        case 3:
            return dice.pick(("true", "nan", "inf", "-0.0", "1e400", "2026-01-01", "07:30:00"))
        case 4:
            return dice.pick(("[]", "[1, 'x']", "{}", "{a = 1}", "{url = 'https://x', b = []}"))
        case _:
            return json.dumps(dice.text())


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (codec, keys, requests, fields, channels, configuration)
}
