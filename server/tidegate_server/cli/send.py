"""`tidegate send`."""

import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Annotated, TypeVar

import typer

import tidegate
from tidegate_server.cli import options, output
from tidegate_server.cli.endings import Failure, WrongArgument

_T = TypeVar("_T")


def send(
    instance: options.Instance,
    conversation: options.Conversation,
    text: Annotated[
        list[str], typer.Argument(help="A message each; -: each line of standard input is one.")
    ],
    *,
    message_id: Annotated[
        str | None, typer.Option("--id", help="Its id: the same one again adds nothing.")
    ] = None,
    flush: Annotated[
        bool, typer.Option("--flush", help="Close the window with the last one.")
    ] = False,
    mode: Annotated[options.Mode | None, typer.Option(help="How the window closes.")] = None,
    delay: Annotated[timedelta | None, options.duration_option("Length of the window.")] = None,
    grace: Annotated[
        timedelta | None, options.duration_option("How much a late message moves its end.")
    ] = None,
    max_wait: Annotated[
        timedelta | None, options.duration_option("Longest a sliding window stays open.")
    ] = None,
    max_messages: Annotated[
        int | None, typer.Option(help="The window closes at this many.")
    ] = None,
    server: options.Server = options.DEFAULT_SERVER,
    token: options.Token = None,
    as_json: options.Json = False,
) -> None:
    """Add messages to a conversation.

    The window's options count if the first message opens it; without them the
    server's settings do.
    """
    if message_id is not None and (len(text) > 1 or text == ["-"]):
        raise WrongArgument("--id is for one message; send the others by calls of their own")
    policy = options.policy(mode, delay, grace, max_wait, max_messages)
    with options.connect(server, token) as gate:
        for message, is_last in _marked(_messages(text), ahead=flush):
            added = gate.add(
                instance,
                conversation,
                message,
                message_id=message_id,
                policy=policy,
                flush=flush and is_last,
            )
            _show(added, as_json=as_json)


def _messages(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if text != "-":
            yield text
            continue
        for line in sys.stdin:
            if message := line.rstrip("\r\n"):
                yield message


def _marked(items: Iterator[_T], *, ahead: bool) -> Iterator[tuple[_T, bool]]:
    """Each item, and whether it is the last: known only by waiting for the next (`ahead`)."""
    if not ahead:
        yield from ((item, False) for item in items)
        return
    for held in items:
        for item in items:
            yield held, False
            held = item
        yield held, True


def _show(added: tidegate.Added, *, as_json: bool) -> None:
    if as_json:
        output.print_json(added)
    else:
        output.console().print(_sentence(added))
    if added.fallback_to_immediate:
        raise Failure(
            f"the server did not buffer it ({added.fallback_reason}) and says to handle it at once"
        )


def _sentence(added: tidegate.Added) -> str:
    if added.outcome is tidegate.AddOutcome.DUPLICATE:
        return f"= {output.printable(added.message_id)} had been taken before; nothing changed"
    if added.buffer is None:
        return f"✓ {output.printable(added.message_id)}"
    waiting = output.count(added.buffer.message_count, "message")
    if added.buffer.state is tidegate.BufferState.DUE:
        return f"✓ {waiting}, and the window is closed"
    left = max(timedelta(0), added.buffer.flush_at - added.buffer.last_message_at)
    opens = "window opens" if added.buffer_created else "window"
    return f"✓ {waiting}, {opens}: closes in {output.seconds(left)}"
