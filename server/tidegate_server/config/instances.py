"""The window's policy of the server, and what is different for one instance."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from tidegate_server.config.push import Push
from tidegate_server.config.values import (
    choice,
    duration,
    format_duration,
    milliseconds,
    number,
    size,
)
from tidegate_server.core.model import WindowMode, WindowPolicy
from tidegate_server.core.quota import Quota

Fallback = Literal["error", "immediate"]


def _parse_mode(value: object) -> WindowMode:
    names = {mode.name.lower(): mode for mode in WindowMode}
    mode = value if isinstance(value, WindowMode) else names.get(str(value).lower())
    if mode is None:
        raise ValueError(f"one of {', '.join(names)}")
    return mode


Mode = Annotated[WindowMode, BeforeValidator(_parse_mode)]
Delay = Annotated[timedelta, duration("0s", "1h")]
MaxWait = Annotated[timedelta, duration("0s", "24h")]
MaxMessages = Annotated[int, number(1, 500)]
MaxBytes = Annotated[int, size(1, 3 << 20)]
Waiting = Annotated[int, number(0, 1_000_000_000)]
WaitingBytes = Annotated[int, size(0, 1 << 30)]
FallbackPolicy = Annotated[Fallback, choice("error", "immediate")]


class InstanceWindow(BaseModel):
    """What an instance sets of its window; the rest is the server's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode | None = None
    delay: Delay | None = None
    grace: Delay | None = None
    max_wait: MaxWait | None = None
    max_messages: MaxMessages | None = None
    max_bytes: MaxBytes | None = None


class Instance(BaseModel):
    """What is different for one instance. `max_delay`: a call that asks for more is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fallback: FallbackPolicy | None = None
    max_delay: Delay = timedelta(hours=1)
    max_conversation_messages: Waiting | None = None
    max_conversation_bytes: WaitingBytes | None = None
    max_instance_messages: Waiting | None = None
    max_instance_buffers: Waiting | None = None
    window: InstanceWindow = InstanceWindow()
    push: Push | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the calls of an instance."""

    policy: WindowPolicy
    fallback: Fallback
    max_delay: timedelta
    quota: Quota


def rules(instance: Instance, default: WindowPolicy, fallback: Fallback, quota: Quota) -> Rules:
    """The rules of an instance; what it leaves out is the default, moved to fit its own delay."""
    return Rules(
        _policy(instance.window, default),
        instance.fallback or fallback,
        instance.max_delay,
        _quota(instance, quota),
    )


def _quota(instance: Instance, default: Quota) -> Quota:
    own = {name: getattr(instance, f"max_{name}", None) for name in Quota._fields}
    return default._replace(**{name: most for name, most in own.items() if most is not None})


def _policy(own: InstanceWindow, default: WindowPolicy) -> WindowPolicy:
    given = own.model_dump(exclude_none=True)
    changes = {
        f"{name}_ms" if isinstance(value, timedelta) else name: (
            milliseconds(value) if isinstance(value, timedelta) else value
        )
        for name, value in given.items()
    }
    policy = replace(default, **changes)
    if own.grace is None:
        policy = replace(policy, grace_ms=min(policy.grace_ms, policy.delay_ms))
    if own.max_wait is None:
        policy = replace(policy, max_wait_ms=max(policy.max_wait_ms, policy.delay_ms))
    return policy


def misfits(instance: Instance, default: WindowPolicy) -> Iterator[tuple[tuple[str, ...], str]]:
    """What of an instance contradicts the rest of it: where, and what it must be."""
    policy = _policy(instance.window, default)
    delay = f"its window's delay, {format_duration(timedelta(milliseconds=policy.delay_ms))}"
    if policy.grace_ms > policy.delay_ms:
        yield ("window", "grace"), f"at most {delay}"
    if policy.max_wait_ms < policy.delay_ms:
        yield ("window", "max_wait"), f"at least {delay}"
    if milliseconds(instance.max_delay) < policy.delay_ms:
        yield ("max_delay",), f"at least {delay}"
