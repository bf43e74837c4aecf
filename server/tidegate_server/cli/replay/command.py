"""The command itself: its options, and which server it plays against."""

import logging
import secrets
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

import tidegate
from tidegate_server.cli import options, output, verdict
from tidegate_server.cli.endings import Failure, WrongArgument, run
from tidegate_server.cli.own_server import OwnServer
from tidegate_server.cli.replay import plan, show
from tidegate_server.cli.replay.play import Manner, Player
from tidegate_server.core.model import WindowMode, WindowPolicy

Duration = timedelta | None


def replay(
    file: Annotated[Path, typer.Argument(help="A trace: .jsonl or .jsonl.gz.")],
    *,
    speed: Annotated[float, typer.Option(help="How many times as fast as it was.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, help="Sessions at a time.")] = 128,
    subscribers: Annotated[int, typer.Option(min=1, max=100, help="Who take the batches.")] = 2,
    session_gap: Annotated[
        Duration, options.duration_option("A longer silence ends a session. Default 10m.")
    ] = None,
    max_gap: Annotated[
        Duration, options.duration_option("Longer silences are cut to this. Default 1m.")
    ] = None,
    mode: Annotated[options.Mode, typer.Option(help="How windows close.")] = options.Mode.FIXED,
    delay: Annotated[Duration, options.duration_option("Length of a window. Default 8s.")] = None,
    grace: Annotated[
        Duration, options.duration_option("Grace of a fixed window. Default 2s.")
    ] = None,
    max_wait: Annotated[
        Duration, options.duration_option("Longest a sliding window stays open. Default 30s.")
    ] = None,
    patience: Annotated[
        Duration, options.duration_option("Give up after this much silence. Default 1m.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", "-s", metavar="ADDRESS", help="Unset: one of its own."),
    ] = None,
    token: options.Token = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where its own server's store keeps its files.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Play a trace of real traffic, and check what comes out.

    Each line of the trace is an object with t (seconds), instance,
    conversation, message_id and text. Sessions are played independently of
    each other; silences and windows are shortened by the speed. Then every
    promise is checked against what was sent, and each batch against the
    window's rules. Exits with 1 if one does not hold.
    """
    if server and data_dir:
        raise WrongArgument("--data-dir is for a server of its own; leave out --server or it")
    if not speed > 0:
        raise WrongArgument("--speed must be above 0; 1 is as fast as it was")
    policy = plan.scale(_policy(mode, delay, grace, max_wait), speed)
    sessions = plan.plan(
        plan.read(file),
        speed=speed,
        session_gap_s=_seconds(session_gap, 600),
        max_gap_s=_seconds(max_gap, 60),
        run=secrets.token_hex(3),
    )
    manner = Manner(policy, parallel, subscribers, _seconds(patience, 60))
    began_s = time.monotonic()
    found = run(_perform(sessions, manner, server, token, data_dir))
    _say(found, time.monotonic() - began_s, as_json=as_json)


def _policy(
    mode: options.Mode, delay: Duration, grace: Duration, max_wait: Duration
) -> WindowPolicy:
    """The policy in real time; what was not given moves to fit the delay."""
    policy = WindowPolicy(WindowMode[mode.name])
    delay_ms = _milliseconds(delay, policy.delay_ms)
    policy = replace(
        policy,
        delay_ms=delay_ms,
        grace_ms=_milliseconds(grace, min(policy.grace_ms, delay_ms)),
        max_wait_ms=_milliseconds(max_wait, max(policy.max_wait_ms, delay_ms)),
    )
    if policy.grace_ms > delay_ms or policy.max_wait_ms < delay_ms:
        raise WrongArgument("--grace must be at most, and --max-wait at least, --delay")
    return policy


def _milliseconds(given: Duration, default: int) -> int:
    return default if given is None else given // timedelta(milliseconds=1)


def _seconds(given: Duration, default: float) -> float:
    return default if given is None else given.total_seconds()


async def _perform(
    sessions: list[plan.Session],
    manner: Manner,
    server: str | None,
    token: str | None,
    data_dir: Path | None,
) -> verdict.Verdict:
    # Troubles on the way are part of the play; the verdict tells what came of them.
    logging.getLogger("tidegate").addHandler(logging.NullHandler())
    async with AsyncExitStack() as stack:
        own = None if server else await stack.enter_async_context(OwnServer(data_dir))
        address = server or (own.address if own else "")
        known_as = options.credentials(token) if server else {}
        gate = await stack.enter_async_context(tidegate.Client(address, **known_as))
        with suppress(tidegate.PermissionDenied):  # who sends and receives need not be an admin
            await gate.server_info()
        player = Player(gate, sessions, manner, own.must_live if own else lambda: None)
        _announce(sessions, player, manner, server or "a server of its own")
        async with show.progress(player):
            record = await player.play()
    return verdict.judge(record, manner.policy)


def _announce(sessions: list[plan.Session], player: Player, manner: Manner, address: str) -> None:
    policy = manner.policy
    output.console(stderr=True).print(
        f"{player.total:,} messages in {len(sessions):,} sessions, {manner.parallel} at a time, "
        f"against {address}; windows of {policy.delay_ms} ms, grace {policy.grace_ms} ms"
    )


def _say(found: verdict.Verdict, took_s: float, *, as_json: bool) -> None:
    if as_json:
        output.print_json(show.as_json(found, took_s))
    else:
        show.verdict(found, took_s)
    if not found.holds:
        broken = sum(1 for check in found.checks if check.failures)
        raise Failure(f"{output.count(broken, 'promise')} of {len(found.checks)} did not hold")
