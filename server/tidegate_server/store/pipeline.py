"""Group commit: one group of commands is under way, all that arrives meanwhile forms the next.

Nothing lingers: a lone command goes out at once. One connection carries everything in the order
of submission, so what one conversation is told keeps its order. After a lost connection the
commands that nobody has an answer for are sent again, in the same order: every script may be
repeated. So are those that a node refuses because it is not the one, or not yet.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from tidegate_server.errors import (
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    TidegateError,
    Unconfirmed,
)
from tidegate_server.logs import get_logger
from tidegate_server.store.dial import Dialer
from tidegate_server.store.scripts import ALL, STATUS
from tidegate_server.store.witness import Witness

Argument = str | bytes | int
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
_SCRIPTS = {script.sha: script.text for script in ALL}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_DIALING_PATIENCE = 3
_MOST_COMMANDS = 256
_QUIET_S = 10
# What the replicas leave of the time: stores look ten times a second whether a WAIT is over.
_SPARE_S, _SPARE_SHARE = 0.15, 0.25
# Nothing was done, and it may be otherwise in a moment, or at another node.
_LATER = {
    "MOVED": "the keys have moved to another node of the store's cluster",
    "ASK": "the keys are on their way to another node of the store's cluster",
    "TRYAGAIN": "the keys are on their way to another node of the store's cluster",
    "CLUSTERDOWN": "the store's cluster is down",
    "MASTERDOWN": "the store's primary is away",
    "READONLY": "the store's node is a replica",
    "NOREPLICAS": "the store has fewer replicas than its min-replicas-to-write",
    "BUSY": "the store is busy with somebody's script",
}
# redis-py takes the code out of the text of some errors, and says by their class what it was.
_CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "ReadOnlyError": "READONLY",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
}
_CODE = re.compile(r"(?:^|: -)([A-Z]{3,})\b")
_is_damage = re.compile(
    "WRONGTYPE|attempt to (index|call|compare|concatenate|perform)|bad argument #|no such key"
    "|Expected .* but found|is not an integer|is not a valid float|must be strings or integers"
    "|[Ww]rong number of arg"
).search
"""What a script fails with that finds keys which no script has written."""

_UNCONFIRMED = "it is done, but too few replicas confirmed it in time; repeat it with the same id"

_log = get_logger("tidegate.store")


class Counters(Protocol):
    """What the pipeline counts."""

    store_round_trips: int
    store_commands: int
    store_errors: int


class Command:
    """One command on its way, and the future of its answer."""

    __slots__ = ("_args", "_refusal", "answer", "deadline", "sent")

    alone = False
    """No group may hold two of these: they must not overtake each other in a repeat."""

    def __init__(self, args: Sequence[Argument], *, deadline: float):
        self._args = args
        self._refusal = ""
        self.deadline = deadline
        self.sent = 0
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def args(self) -> Sequence[Argument]:
        """The command's words, asked for when it is sent."""
        return self._args

    @property
    def writes(self) -> bool:
        """Whether it may write, or tells what others wrote as a fact to build on."""
        args = self.args()
        return args[0] == "EVALSHA" and args[1] != STATUS.sha

    def refused(self, why: str) -> None:
        """It was not done this time; it is to be sent again."""
        self._refusal = why
        self.sent -= 1

    def overdue(self) -> StoreUnavailable:
        """The error when no answer came in time. `sent` counts the times it may have been done."""
        if self.sent:
            return StoreUnavailable("the store did not answer in time", maybe_done=True)
        return StoreUnavailable(self._refusal or "the store cannot be reached")


class _Refused(RedisError):
    """The store answers, but not as it must; another connection may do better."""


class Pipeline:
    """The one way to a partition. `timeout` is the longest wait for an answer, in seconds.

    With `replicas`, what writes is answered when so many of them have it, and `beat` is the key of
    the partition that it takes to ask them. Else `Unconfirmed`: it is done all the same.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        timeout: float,
        counters: Counters,
        replicas: int = 0,
        beat: str = "",
    ):
        self._dialer = dialer
        self._connection: AbstractConnection | None = None
        self._witness = Witness(beat, replicas) if replicas else None
        self._timeout = timeout
        self._counters = counters
        self._waiting: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._loud_again = 0.0
        self.away: str | None = None

    @property
    def deadline(self) -> float:
        """The loop's time at which a command submitted now is overdue."""
        return asyncio.get_running_loop().time() + self._timeout

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="store pipeline")

    async def stop(self) -> None:
        """Send what waits, then close the connection."""
        if self._task is None:
            return
        pending = [command.answer for command in self._waiting]
        if pending:
            await asyncio.wait(pending, timeout=self._timeout)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._fail_all(StoreUnavailable("the server is stopping", maybe_done=True))
        if self._connection:
            await self._connection.disconnect()

    def send(self, command: Command) -> None:
        """Put a command into the next group."""
        self._waiting.append(command)
        self._wake.set()

    async def call(self, *args: Argument) -> Any:
        """One command's answer.

        Raises:
            StoreUnavailable: No answer in time.
            StoreFull: The store has no room for it.
        """
        command = Command(args, deadline=self.deadline)
        self.send(command)
        return await command.answer

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            await self._wake.wait()
            try:
                connection = self._connection
                if connection is None or not connection.is_connected:
                    connection = await self._connect()
                group = self._take()
                if group:
                    await self._exchange(connection, group)
                pause = _FIRST_PAUSE_S
            except (RedisError, OSError, TimeoutError) as error:
                self._note(error)
                self._watch_overdue()
                await self._hang_up()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                self._fail_overdue()
            except Exception as error:
                _log.exception("store pipeline failed")
                await self._hang_up()
                self._fail_all(StoreUnavailable(f"internal: {type(error).__name__}"))
            if not self._waiting:
                self._wake.clear()

    async def _connect(self) -> AbstractConnection:
        await self._hang_up()
        self._watch_overdue()
        async with asyncio.timeout(_DIALING_PATIENCE * self._timeout):
            self._connection = connection = await self._dialer.open()
            await self._load_scripts(connection)
            if self._witness:
                await self._witness.begin(connection)
        if self.away:
            _log.info("the store is back")
        self.away = None
        return connection

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await connection.disconnect(nowait=True)

    def _take(self) -> list[Command]:
        """The next group, without what nobody waits for."""
        group: list[Command] = []
        has_lone = False
        while self._waiting and len(group) < _MOST_COMMANDS:
            command = self._waiting[0]
            if command.alone and has_lone:
                break
            self._waiting.popleft()
            if not command.answer.done():
                group.append(command)
                has_lone = has_lone or command.alone
        return group

    async def _exchange(self, connection: AbstractConnection, group: list[Command]) -> None:
        """Send a group and hand out its answers; what has none goes back in line."""
        self._counters.store_round_trips += 1
        self._counters.store_commands += len(group)
        held: list[tuple[Command, Any]] | None = None
        try:
            async with asyncio.timeout_at(group[0].deadline):
                held = await self._write(connection, group)
                codes = [await self._read(connection, command, held) for command in group]
                if self._witness and held is not None:
                    await self._confirm(connection, self._witness, held)
                if "NOSCRIPT" in codes:
                    await self._load_scripts(connection)
        except TimeoutError:
            # They have their answers; what is missing is the word of the replicas.
            self._tell_unconfirmed(held or ())
            raise
        finally:
            self._waiting.extendleft(reversed([c for c in group if not c.answer.done()]))
        if refusal := next((code for code in codes if code in _LATER), None):
            raise _Refused(_LATER[refusal])

    async def _write(
        self, connection: AbstractConnection, group: list[Command]
    ) -> list[tuple[Command, Any]] | None:
        """Send a group. Returns where to hold its answers, if replicas have to confirm it."""
        packed: list[bytes] = []
        for command in group:
            packed.append(_pack(tuple(command.args())))
            command.sent += 1
        held = None
        if self._witness and any(command.writes for command in group):
            left = group[0].deadline - asyncio.get_running_loop().time()
            packed.append(self._witness.question(left - max(_SPARE_S, _SPARE_SHARE * left)))
            held = []
        await connection.send_packed_command(packed, check_health=False)
        return held

    async def _read(
        self,
        connection: AbstractConnection,
        command: Command,
        held: list[tuple[Command, Any]] | None,
    ) -> str | None:
        """Read one answer. Returns why the command has to be sent again, if it has to."""
        try:
            answer = await connection.read_response(
                disable_decoding=True, disconnect_on_error=False
            )
        except ResponseError as error:
            return self._take_error(command, error)
        if held is not None and command.writes:
            held.append((command, answer))
        elif not command.answer.done():
            command.answer.set_result(answer)
        return None

    def _take_error(self, command: Command, error: ResponseError) -> str | None:
        code = _code(error)
        if code == "NOSCRIPT" or code in _LATER:
            command.refused(_LATER.get(code, ""))
            return code
        self._counters.store_errors += 1
        if not command.answer.done():
            command.answer.set_exception(_told(error, code))
        return None

    async def _confirm(
        self, connection: AbstractConnection, witness: Witness, held: list[tuple[Command, Any]]
    ) -> None:
        """Hand out the answers that were held, or say that replicas do not confirm them."""
        confirmed = await witness.confirmed(connection)
        if not confirmed:
            self._tell_unconfirmed(held)
        if confirmed is None:
            raise _Refused("the store's node takes no writes, or has lost its keys")
        for command, answer in held:
            if not command.answer.done():
                command.answer.set_result(answer)

    def _tell_unconfirmed(self, held: Sequence[tuple[Command, Any]]) -> None:
        untold = [command for command, _ in held if not command.answer.done()]
        for command in untold:
            self._counters.store_errors += 1
            command.answer.set_exception(Unconfirmed(_UNCONFIRMED))
        if untold:
            self._warn("replicas do not confirm in time")

    async def _load_scripts(self, connection: AbstractConnection) -> None:
        for text in _SCRIPTS.values():
            await connection.send_command("SCRIPT", "LOAD", text)
            await connection.read_response()

    def _note(self, error: BaseException) -> None:
        """Count what went wrong, and log it: while it lasts, once or from time to time."""
        self._counters.store_errors += 1
        text = str(error) or type(error).__name__
        if isinstance(error, _Refused):
            self._warn("the store refuses commands for now", error=text)
            return
        if not self.away:
            _log.warning("the store is away", error=text)
        self.away = text

    def _warn(self, event: str, **fields: object) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._loud_again:
            self._loud_again = now + _QUIET_S
            _log.warning(event, **fields)

    def _watch_overdue(self) -> None:
        """While there is no connection, see to it that nothing waits past its deadline."""
        if self._overdue:
            self._overdue.cancel()
            self._overdue = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            when = max(self._waiting[0].deadline, loop.time() + 0.01)
            self._overdue = loop.call_at(when, self._fail_overdue)

    def _fail_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0].deadline <= now:
            command = self._waiting.popleft()
            if not command.answer.done():
                command.answer.set_exception(command.overdue())
        if self._connection is None or not self._connection.is_connected:
            self._watch_overdue()

    def _fail_all(self, error: TidegateError) -> None:
        while self._waiting:
            command = self._waiting.popleft()
            if not command.answer.done():
                command.answer.set_exception(error)


def _code(error: ResponseError) -> str:
    """The first word of the store's answer, also if a script passed it on."""
    if known := _CODES.get(type(error).__name__):
        return known
    found = _CODE.search(str(error))
    return found[1] if found else ""


def _told(error: ResponseError, code: str) -> TidegateError:
    """The store's own refusal in our words."""
    text = str(error)
    if code == "OOM" or "OOM command not allowed" in text:
        return StoreFull("the store is out of memory; nothing was stored")
    if "MISCONF" in text:
        return StoreFull("the store cannot write to its disk; nothing was stored")
    if _is_damage(text):
        return StoreDamaged(f"the store holds what no script has written: {text}")
    return StoreUnavailable(f"the store refused a command: {text}")
