"""Every setting: its meaning, its bounds, its default."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from tidegate_server.config.addresses import (
    STORE_URL,
    Address,
    addresses,
    shown_url,
    split_credentials,
)
from tidegate_server.config.instances import (
    Delay,
    Fallback,
    FallbackPolicy,
    Instance,
    MaxBytes,
    MaxMessages,
    MaxWait,
    Mode,
    Rules,
    Waiting,
    WaitingBytes,
    misfits,
    rules,
)
from tidegate_server.config.push import Push
from tidegate_server.config.tls import Certificate, read_certificate
from tidegate_server.config.tokens import read_tokens
from tidegate_server.config.values import (
    FILE,
    FLAG,
    OPTIONAL,
    PATH,
    Misfits,
    choice,
    duration,
    format_duration,
    format_size,
    matching,
    milliseconds,
    number,
    show,
    size,
)
from tidegate_server.core.access import Tokens
from tidegate_server.core.model import WindowMode, WindowPolicy
from tidegate_server.core.quota import Quota
from tidegate_server.core.retry import RetryPolicy

_InstanceName = Annotated[
    str, matching(r"[A-Za-z0-9._:@+-]{1,128}", "1 to 128 characters from [A-Za-z0-9._:@+-]")
]


class Settings(BaseModel):
    """The server's settings. `load_settings` finds them; made by hand, nothing else is read.

    `listen` is set by the environment's TIDEGATE_LISTEN, the file's `listen`, and so on for every
    other field; `instances` by the file alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[tuple[Address, ...], addresses()] = (Address("127.0.0.1", 7460),)
    """Where gRPC is served."""
    http_listen: Annotated[tuple[Address, ...], addresses(optional=True, sockets=False)] = (
        Address("127.0.0.1", 7461),
    )
    """Where health, readiness and metrics are served over HTTP. Empty: nowhere."""
    insecure_listen: Annotated[bool, FLAG] = False
    """Listen beyond loopback without TLS and without tokens or client certificates."""

    tls_cert_file: Annotated[Path | None, FILE] = None
    """The server's certificate and those that signed it, as PEM; then every port speaks TLS."""
    tls_key_file: Annotated[Path | None, FILE] = None
    """The certificate's key, as PEM, without a password."""
    tls_client_ca_file: Annotated[Path | None, FILE] = None
    """Certificates that may sign those of clients, as PEM; then each needs one."""
    tokens_file: Annotated[Path | None, FILE] = None
    """The tokens that clients need, as TOML. Unset: none."""

    store_url: Annotated[str | None, STORE_URL] = None
    """The Redis or Valkey that holds everything, without user and password. Unset: embedded."""
    store_username: Annotated[str | None, OPTIONAL] = None
    """The store's user, instead of the one in the URL."""
    store_password: Annotated[SecretStr | None, OPTIONAL] = None
    """The store's password, instead of the one in the URL."""
    store_ca_file: Annotated[Path | None, FILE] = None
    """Certificates that may sign the store's, as PEM. Unset: those of the system."""
    store_prefix: Annotated[
        str, matching(r"[A-Za-z0-9._:-]{1,32}", "1 to 32 characters from [A-Za-z0-9._:-]")
    ] = "tg"
    """What the store's keys begin with."""
    store_wait: Annotated[timedelta, duration("0s", "1h")] = timedelta(seconds=30)
    """How long to wait at the start for a store that is away."""
    store_timeout: Annotated[timedelta, duration("10ms", "1m")] = timedelta(milliseconds=800)
    """How long to wait for one answer of the store; best less than the deadline of those who add,
    who else cannot be told that a message is surely not stored."""
    durability: Annotated[
        Literal["memory", "everysec", "fsync", "replicated"] | None,
        choice("memory", "everysec", "fsync", "replicated", optional=True),
    ] = None
    """What an OK survives; a store that promises less is refused. Unset: what the store has."""
    store_replicas: Annotated[int, number(1, 5)] = 1
    """How many replicas must have what is acknowledged; for the durability replicated alone."""
    data_dir: Annotated[Path, PATH] = Path("/var/lib/tidegate")
    """Where the embedded store keeps its files."""
    encryption_keys_file: Annotated[Path | None, FILE] = None
    """Keys that messages are encrypted with in the store. Unset: they lie there in clear."""
    name_key_file: Annotated[Path | None, FILE] = None
    """The key that conversations' names and messages' ids are encrypted with in the store."""

    window_mode: Mode = WindowMode.FIXED
    """How a window closes."""
    window_delay: Delay = timedelta(seconds=8)
    """Length of a window."""
    window_grace: Delay = Field(
        default_factory=lambda fields: min(timedelta(seconds=2), fields["window_delay"])
    )
    """Grace of a fixed window; at most its delay."""
    window_max_wait: MaxWait = Field(
        default_factory=lambda fields: max(timedelta(seconds=30), fields["window_delay"])
    )
    """Upper bound of a sliding or held window; at least its delay."""
    window_max_messages: MaxMessages = 100
    """A window closes at this many messages."""
    window_max_bytes: MaxBytes = 1 << 20
    """A window closes before its payloads exceed this."""
    max_message_bytes: Annotated[int, size(1, 3 << 20)] = 256 << 10
    """Largest payload of one message."""
    max_conversation_messages: Waiting = 1_000
    """Most messages that may wait in a conversation; 0: any number. A batch waits no more."""
    max_conversation_bytes: WaitingBytes = 8 << 20
    """Most bytes of payload that may wait in a conversation; 0: any number."""
    max_instance_messages: Waiting = 0
    """Most messages that may wait in all conversations of an instance; 0: any number."""
    max_instance_buffers: Waiting = 0
    """Most conversations of an instance in which messages may wait; 0: any number."""
    max_store_messages: Waiting = 0
    """Most messages that may wait in the store; 0: any number."""
    max_store_buffers: Waiting = 0
    """Most conversations in the store in which messages may wait; 0: any number."""
    default_fallback: FallbackPolicy = Field(default="error", alias="fallback")
    """What the caller of a message that cannot be buffered gets: an error, or it back at once."""

    retries: Annotated[int, number(0, 20)] = 3
    """Deliveries after the first that may be nacked before a batch becomes a dead letter."""
    retry_base: Annotated[timedelta, duration("10ms", "1m")] = timedelta(seconds=1)
    """The wait after the first nack; it doubles with each further one, up to a minute."""
    max_expiries: Annotated[int, number(1, 1000)] = 10
    """Leases of a batch that may run out before it becomes a dead letter."""
    deduplication: Annotated[timedelta, duration("1s", "30d")] = timedelta(hours=1)
    """How long the id of a message is remembered."""
    retain_processed: Annotated[timedelta, duration("0s", "30d")] = timedelta(minutes=5)
    """How long the messages of a processed batch are kept; 0: not at all."""
    retain_status: Annotated[timedelta, duration("1s", "30d")] = timedelta(hours=1)
    """How long it is remembered how a batch ended. Nothing unsettled ever expires."""
    lease: Annotated[timedelta, duration("1s", "10m")] = timedelta(seconds=30)
    """Length of a lease for a subscriber that asks for none."""
    heartbeat: Annotated[timedelta, duration("100ms", "10m")] = timedelta(seconds=15)
    """Longest silence of a subscriber's stream."""
    max_subscribers: Annotated[int, number(1, 100_000)] = 1000
    """Streams and long polls at a time."""
    drain_timeout: Annotated[timedelta, duration("0s", "10m")] = timedelta(seconds=10)
    """How long a server that is told to stop lets calls under way finish."""
    late_after: Annotated[timedelta, duration("100ms", "24h")] = timedelta(seconds=30)
    """How late a batch may be before that is reported. Nothing is ever deleted for it."""
    events: Annotated[bool, FLAG] = True
    """Publish what happens for those who watch."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], choice("debug", "info", "warning", "error")
    ] = "info"
    """The least severe event that is logged."""
    log_format: Annotated[Literal["auto", "console", "json"], choice("auto", "console", "json")] = (
        "auto"
    )
    """How events are written; auto: for people if standard error is a terminal, else JSON."""

    instances: dict[_InstanceName, Instance] = {}
    """What is different for some instances; only in the file."""

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_sources(cls, values: Mapping[str, object], sources: Mapping[str, str]) -> Self:
        """Settings of which `describe` can say where each value comes from."""
        settings = cls(**values)  # pyright: ignore[reportArgumentType]  # checked field by field
        settings._sources.update(sources)
        return settings

    def policy(self, instance: str) -> WindowPolicy:
        """The window's policy of the instance. Costs a look into a dict."""
        return self._rules.get(instance, self._default_rules).policy

    def fallback(self, instance: str) -> Fallback:
        """What a caller is told when a message of the instance cannot be buffered."""
        return self._rules.get(instance, self._default_rules).fallback

    def max_delay(self, instance: str) -> timedelta:
        """The longest `policy.delay` that a call for the instance may ask for."""
        return self._rules.get(instance, self._default_rules).max_delay

    def quota(self, instance: str) -> Quota:
        """How much may wait in the instance and its conversations."""
        return self._rules.get(instance, self._default_rules).quota

    @cached_property
    def retry_policy(self) -> RetryPolicy:
        """How often and when a batch is tried again."""
        return RetryPolicy(
            retries=self.retries,
            base_ms=milliseconds(self.retry_base),
            max_expiries=self.max_expiries,
        )

    def describe(self) -> list[tuple[str, str, str]]:
        """Every setting as (name, value, where it comes from), secrets hidden."""
        lines = [
            (env_name(key), _show(key, getattr(self, name)), self._source(key, name))
            for key, name in KEYS.items()
        ]
        source = self._source("instances", "instances")
        for instance, own in self.instances.items():
            given = own.model_dump(exclude_unset=True)
            for table in ("window", "push"):
                inner = given.pop(table, None) or {}
                given |= {f"{table}.{key}": value for key, value in inner.items()}
            lines += [
                (f'instances."{instance}".{key}', _show(key, value), source)
                for key, value in given.items()
            ]
        return lines

    @cached_property
    def endpoints(self) -> dict[str, Push]:
        """The endpoints that batches are pushed to, by their instance."""
        return {name: own.push for name, own in self.instances.items() if own.push}

    def _source(self, key: str, name: str) -> str:
        if key in self._sources:
            return self._sources[key]
        if name not in self.model_fields_set:
            return "default"
        # What nobody gave and is there all the same came inside the URL.
        return self._sources.get("store_url", "argument")

    @cached_property
    def _default_rules(self) -> Rules:
        return self._rules_of(Instance())

    @cached_property
    def _rules(self) -> dict[str, Rules]:
        return {name: self._rules_of(instance) for name, instance in self.instances.items()}

    def _rules_of(self, instance: Instance) -> Rules:
        quota = Quota(*(getattr(self, f"max_{name}") for name in Quota._fields))
        return rules(instance, self._default_policy, self.default_fallback, quota)

    @cached_property
    def _default_policy(self) -> WindowPolicy:
        return WindowPolicy(
            mode=self.window_mode,
            delay_ms=milliseconds(self.window_delay),
            grace_ms=milliseconds(self.window_grace),
            max_wait_ms=milliseconds(self.window_max_wait),
            max_messages=self.window_max_messages,
            max_bytes=self.window_max_bytes,
        )

    @model_validator(mode="before")
    @classmethod
    def _take_credentials(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Move user and password out of the URL, so that it is no secret any more."""
        url = values.get("store_url")
        if not isinstance(url, str):
            return values
        bare, username, password = split_credentials(url)
        inside = {"store_username": username, "store_password": password}
        missing = {key: value for key, value in inside.items() if value and not values.get(key)}
        return values | missing | {"store_url": bare}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if items := list(self._misfits()):
            raise Misfits(items)
        return self

    def _misfits(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from self._exposed()
        yield from self._unusable()
        delay = f"the window's delay, {format_duration(self.window_delay)}"
        if self.window_grace > self.window_delay:
            yield ("window_grace",), f"at most {delay}"
        if self.window_max_wait < self.window_delay:
            yield ("window_max_wait",), f"at least {delay}"
        yield from self._too_small(self.max_conversation_bytes, ())
        for name, instance in self.instances.items():
            for at, rule in misfits(instance, self._default_policy):
                yield ("instances", name, *at), rule
            yield from self._too_small(instance.max_conversation_bytes, ("instances", name))
        if self.max_subscribers < len(self.endpoints):
            yield ("max_subscribers",), f"at least {len(self.endpoints)}, one for each endpoint"
        for key in ("store_username", "store_password"):
            if self.store_url is None and getattr(self, key):
                yield (key,), "unset while TIDEGATE_STORE_URL is, for the embedded store needs none"
        if self.store_ca_file and not (self.store_url or "").startswith("rediss"):
            yield ("store_ca_file",), "unset unless TIDEGATE_STORE_URL is a rediss:// URL"

    @property
    def is_guarded(self) -> bool:
        """Whether strangers can neither listen nor come in."""
        return bool(self.tls_cert_file and (self.tokens_file or self.tls_client_ca_file))

    @property
    def exposed(self) -> list[Address]:
        """The addresses that other machines can reach and that are not guarded."""
        listening = [*self.listen, *self.http_listen]
        return [a for a in listening if not (a.is_local or self.is_guarded)]

    def read_certificate(self) -> Certificate | None:
        """The certificate as it is now. `ValueError`: it cannot be used, and why."""
        if not (self.tls_cert_file and self.tls_key_file):
            return None
        return read_certificate(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    def read_tokens(self) -> Tokens | None:
        """The tokens as they are now. `ValueError`: they cannot be used, and why."""
        return read_tokens(self.tokens_file) if self.tokens_file else None

    def _too_small(
        self, most: int | None, where: tuple[str, ...]
    ) -> Iterator[tuple[tuple[str, ...], str]]:
        if most and most < self.max_message_bytes:
            least = f"the largest message, {format_size(self.max_message_bytes)}"
            yield (*where, "max_conversation_bytes"), f"at least {least}, or 0 for no limit"

    def _exposed(self) -> Iterator[tuple[tuple[str, ...], str]]:
        for key, found in (("listen", self.listen), ("http_listen", self.http_listen)):
            if not self.insecure_listen and any(address in self.exposed for address in found):
                where = (
                    "127.0.0.1, [::1] or unix:/path" if key == "listen" else "127.0.0.1 or [::1]"
                )
                yield (
                    (key,),
                    f"on {where}, unless there is TLS (TIDEGATE_TLS_CERT_FILE) and either tokens"
                    " (TIDEGATE_TOKENS_FILE) or client certificates (TIDEGATE_TLS_CLIENT_CA_FILE);"
                    " TIDEGATE_INSECURE_LISTEN=true allows any address, for a network that you"
                    " trust",
                )

    def _unusable(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.tls_cert_file and not self.tls_key_file:
            yield ("tls_key_file",), "set, as TIDEGATE_TLS_CERT_FILE is"
        for key in ("tls_key_file", "tls_client_ca_file"):
            if getattr(self, key) and not self.tls_cert_file:
                yield (key,), "unset unless TIDEGATE_TLS_CERT_FILE is set"
        for key, read in (
            ("tls_cert_file", self.read_certificate),
            ("tokens_file", self.read_tokens),
        ):
            try:
                read()
            except ValueError as error:
                yield (key,), str(error)


KEYS = {
    field.alias or name: name
    for name, field in Settings.model_fields.items()
    if name != "instances"
}
"""What each setting is called outside, in lower case, and the field that holds it."""


def env_name(key: str) -> str:
    """The environment variable that sets it."""
    return f"TIDEGATE_{key.upper()}"


def _show(key: str, value: object) -> str:
    if key == "push.url":
        return shown_url(str(value))
    return format_size(value) if isinstance(value, int) and key.endswith("_bytes") else show(value)
