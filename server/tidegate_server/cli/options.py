"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import tidegate
import tidegate.blocking
from tidegate_server.cli.endings import WrongArgument

DEFAULT_SERVER = "127.0.0.1:7460"


class Mode(StrEnum):
    """How a window closes."""

    FIXED = "fixed"
    SLIDING = "sliding"


def duration(value: str | timedelta) -> timedelta:
    """A duration as the settings write it: "8s", "500ms", "1h30m", or a number of seconds."""
    # Brings pydantic, which most commands need not wait for.
    from tidegate_server.config.values import duration as rule

    try:
        return rule("0s", "365d").func(value)  # pyright: ignore[reportCallIssue] - it takes one
    except ValueError:
        raise typer.BadParameter(
            f'"{value}" is no duration; write it as "8s", "500ms" or "1h30m"'
        ) from None


def duration_option(text: str, *names: str) -> Any:
    """An option that takes a duration, with its help; named after its parameter unless told."""
    return typer.Option(*names, parser=duration, metavar="DURATION", help=text)


Server = Annotated[
    str,
    typer.Option(
        "--server", "-s", metavar="ADDRESS", envvar="TIDEGATE_ADDRESS", help="host:port, unix:/path"
    ),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="TIDEGATE_TOKEN", help="What the server knows this client by."),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line; durations are seconds.")
]
Instance = Annotated[str, typer.Argument(help="A bot, a phone number: whatever is a tenant.")]
Conversation = Annotated[str, typer.Argument(help="Whom it talks with.")]
MessageId = Annotated[str, typer.Argument(help="The message's id.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OnlyInstance = Annotated[str | None, typer.Option("--instance", help="Only this instance.")]


def group(default: str) -> type[TyperGroup]:
    """A group of commands, of which one may be left out."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
                args = [default, *args]
            return super().parse_args(ctx, args)

    return Group


@dataclass(frozen=True, slots=True)
class Security:
    """How a server is reached: what stands before the name of any command."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    insecure_token: bool = False


security = Security()
"""That of this process."""


def credentials(token: str | None) -> dict[str, Any]:
    """The arguments of a client that say who calls. Raises WrongArgument."""
    file = security.token_file
    if token and file:
        raise WrongArgument("give a token or a file with it, and not both")
    return {
        "token": _reader(file) if file else token or None,
        "ca_file": security.ca_file,
        "cert_file": security.cert_file,
        "key_file": security.key_file,
        "insecure_token": security.insecure_token,
    }


def _reader(file: Path) -> Callable[[], str]:
    """Looks into the file for every call, so that the token may be replaced."""
    return lambda: file.read_text(encoding="utf-8").strip()


def connect(server: str, token: str | None) -> tidegate.blocking.Client:
    """A client of the server. Raises InvalidArgument for what is no address."""
    return tidegate.blocking.Client(server, **credentials(token))


def policy(
    mode: Mode | None,
    delay: timedelta | None,
    grace: timedelta | None,
    max_wait: timedelta | None,
    max_messages: int | None,
) -> tidegate.WindowPolicy | None:
    """The policy of one call; None if nothing of it was given."""
    given = (mode, delay, grace, max_wait, max_messages)
    if all(value is None for value in given):
        return None
    return tidegate.WindowPolicy(
        mode=tidegate.WindowMode[mode.name] if mode else tidegate.WindowMode.UNSPECIFIED,
        delay=delay,
        grace=grace,
        max_wait=max_wait,
        max_messages=max_messages,
    )
