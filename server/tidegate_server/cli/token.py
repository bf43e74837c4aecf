"""`tidegate token`."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Annotated

import typer

from tidegate_server.cli import options, output
from tidegate_server.cli.endings import WrongArgument
from tidegate_server.core.access import Role


def token(
    name: Annotated[str, typer.Argument(help="Whose it is, for people.")],
    *,
    role: Annotated[list[Role], typer.Option(help="What it may be used for; may be repeated.")],
    instance: Annotated[
        list[str] | None,
        typer.Option(help="An instance that it covers; may be repeated. All if none is named."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a token, and the entry for the server's file of tokens.

    The token is shown once; the entry has its hash and no secret.
    """
    made = "tgt_" + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "sha256": hashlib.sha256(made.encode()).hexdigest(),
        "roles": sorted(set(role)),
        "instances": instance or ["*"],
    }
    _check(entry)
    if as_json:
        output.print_json({"token": made, "entry": entry})
        return
    console = output.console()
    console.print("The token, shown only now. Give it to the client, as TIDEGATE_TOKEN:\n")
    console.print(output.cell(f"  {made}\n", "bold cyan"), soft_wrap=True)
    console.print("The entry for the file that TIDEGATE_TOKENS_FILE names:\n")
    console.print(_toml(entry), soft_wrap=True)


def _check(entry: Mapping[str, object]) -> None:
    # Brings pydantic, which other commands need not wait for.
    from tidegate_server.config.tokens import check_entry

    try:
        check_entry(entry)
    except ValueError as error:
        raise WrongArgument(str(error)) from None


def _toml(entry: Mapping[str, object]) -> str:
    # TOML writes texts and lists of them as JSON does.
    lines = (f"{key} = {json.dumps(value)}" for key, value in entry.items())
    return "\n".join(["[[token]]", *lines])
