"""How a command ends: an exit code and, if it failed, one sentence on standard error.

0: done. 1: it failed. 2: a wrong argument or setting. 130: Ctrl-C. 143: told to stop.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

import typer

import tidegate
from tidegate_server.errors import StartupError

INTERRUPTED = 130

_T = TypeVar("_T")
_STOPS = (signal.SIGTERM, signal.SIGHUP)
_NO_SERVER = "no Tidegate server answers at "


class Failure(Exception):
    """The command could not do what it was asked to do. The text is one sentence."""


class WrongArgument(Failure):
    """An argument that can never work, found out only after all of them were read."""


def prepare() -> None:
    """Clean up also when told to stop, and print what the terminal's encoding can show."""
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`. Told to stop, it cancels `main`, as asyncio itself does for Ctrl-C."""
    told: list[int] = []

    async def stoppable() -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop(number: int) -> None:
            told.append(number)
            if task:
                task.cancel()

        for number in _STOPS:
            if signal.getsignal(number) is _stop:
                loop.add_signal_handler(number, stop, number)
        return await main

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise SystemExit(128 + told[0] if told else 1) from None


def exit_code(command: Callable[[], object]) -> int:
    """Run the command, explain its failure, and return its exit code. Bugs pass through."""
    try:
        result = command()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads any more, as in `tidegate stats | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explain(_root(error))


def _root(error: Exception) -> Exception:
    """The first error of a group of tasks, which is the reason for the others."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


def _explain(error: Exception) -> int:
    text, code = _sentence(error)
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr)
    return code


def _sentence(error: Exception) -> tuple[str, int]:
    match error:
        case StartupError():
            return _refused(error)
        case tidegate.Unavailable() if str(error).startswith(_NO_SERVER):
            return f"tidegate: {_no_server(error)}", 1
        case tidegate.TidegateError():
            return f"tidegate: {error}", 2 if isinstance(error, tidegate.InvalidArgument) else 1
        case Failure():
            return f"tidegate: {error}", 2 if isinstance(error, WrongArgument) else 1
        case OSError(strerror=str(why), filename=name) if name:
            return f"tidegate: {name}: {why}", 1
        case _ if hasattr(error, "format_message"):  # what typer finds wrong in the arguments
            return _misused(cast("Any", error))
        case _:
            raise error


def _refused(error: StartupError) -> tuple[str, int]:
    from tidegate_server.config import ConfigError

    if isinstance(error, ConfigError):
        return str(error), 2  # one line for each setting, and each names its own
    return f"tidegate: {error}", 1


def _no_server(error: tidegate.TidegateError) -> str:
    """Shorter than the words of gRPC, which tell of its parts more than of the cause."""
    address, _, why = str(error).removeprefix(_NO_SERVER).partition(": ")
    if "handshake failed" in why or "Socket closed" in why:
        asks = "TLS (--ca-file), this client's certificate (--cert-file, --key-file) or neither"
        return f"{_NO_SERVER}{address} to this client; does that want {asks}?"
    return f"{_NO_SERVER}{address}; start one with `tidegate serve`, or name another with --server"


def _misused(error: Any) -> tuple[str, int]:
    text = " ".join(str(error.format_message()).replace("Value error, ", "").split())
    text = text.replace(". Did you", "; did you").rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tidegate"
    return f"{command}: {text[:1].lower()}{text[1:]}\nSee `{command} --help`.", 2
