"""Group commit: one group of commands is under way, all that arrives meanwhile forms the next.

Nothing lingers: a lone command goes out at once. One connection carries everything in the order
of submission, so what one conversation is told keeps its order. After a lost connection the
commands that nobody has an answer for are sent again, in the same order: every script may be
repeated.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from tidegate_server.errors import StoreDamaged, StoreFull, StoreUnavailable, TidegateError
from tidegate_server.logs import get_logger
from tidegate_server.store.scripts import ALL

Argument = str | bytes | int
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
_SCRIPTS = {script.sha: script.text for script in ALL}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_MOST_COMMANDS = 256
_is_damage = re.compile(
    "WRONGTYPE|attempt to (index|call|compare|concatenate|perform)|bad argument #|no such key"
    "|Expected .* but found|is not an integer|is not a valid float|must be strings or integers"
    "|[Ww]rong number of arg"
).search
"""What a script fails with that finds keys which no script has written."""

_log = get_logger("tidegate.store")


class Counters(Protocol):
    """What the pipeline counts."""

    store_round_trips: int
    store_commands: int
    store_errors: int


class Command:
    """One command on its way, and the future of its answer."""

    __slots__ = ("_args", "answer", "deadline", "sent")

    alone = False
    """No group may hold two of these: they must not overtake each other in a repeat."""

    def __init__(self, args: Sequence[Argument], *, deadline: float):
        self._args = args
        self.deadline = deadline
        self.sent = False
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def args(self) -> Sequence[Argument]:
        """The command's words, asked for when it is sent."""
        return self._args

    def overdue(self) -> StoreUnavailable:
        """The error when no answer came in time."""
        if self.sent:
            return StoreUnavailable("the store did not answer in time", maybe_done=True)
        return StoreUnavailable("the store cannot be reached")


class Pipeline:
    """The one way to the store. `timeout` is the longest wait for an answer, in seconds."""

    def __init__(
        self, connect: Callable[[], AbstractConnection], *, timeout: float, counters: Counters
    ):
        self._connection = connect()
        self._timeout = timeout
        self._counters = counters
        self._waiting: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._overdue: asyncio.TimerHandle | None = None
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
                if not self._connection.is_connected:
                    await self._connect()
                group = self._take()
                if group:
                    await self._exchange(group)
                pause = _FIRST_PAUSE_S
            except (RedisError, OSError, TimeoutError) as error:
                self._lost(error)
                self._watch_overdue()
                await self._connection.disconnect(nowait=True)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                self._fail_overdue()
            except Exception as error:
                _log.exception("store pipeline failed")
                await self._connection.disconnect(nowait=True)
                self._fail_all(StoreUnavailable(f"internal: {type(error).__name__}"))
            if not self._waiting:
                self._wake.clear()

    async def _connect(self) -> None:
        self._watch_overdue()
        async with asyncio.timeout(self._timeout):
            await self._connection.connect()
            for text in _SCRIPTS.values():
                await self._connection.send_command("SCRIPT", "LOAD", text)
                await self._connection.read_response()
        if self.away:
            _log.info("the store is back")
        self.away = None

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

    async def _exchange(self, group: list[Command]) -> None:
        """Send a group and hand out its answers; what has none after an error goes back in line."""
        unanswered = deque(group)
        self._counters.store_round_trips += 1
        self._counters.store_commands += len(group)
        try:
            async with asyncio.timeout_at(group[0].deadline):
                await self._write(group)
                missing = [c for c in group if await self._read(c, unanswered)]
                if missing:
                    await self._load_scripts()
        except BaseException:
            self._waiting.extendleft(reversed(unanswered))
            raise
        self._waiting.extendleft(reversed(missing))

    async def _write(self, group: list[Command]) -> None:
        packed: list[bytes] = []
        for command in group:
            packed.append(_pack(tuple(command.args())))
            command.sent = True
        await self._connection.send_packed_command(packed, check_health=False)

    async def _read(self, command: Command, unanswered: deque[Command]) -> bool:
        """Read one answer. True if the command has to be sent again, for want of its script."""
        try:
            answer = await self._connection.read_response(
                disable_decoding=True, disconnect_on_error=False
            )
        except ResponseError as error:
            unanswered.popleft()
            if str(error).startswith("NOSCRIPT") or type(error).__name__ == "NoScriptError":
                return True
            self._counters.store_errors += 1
            if not command.answer.done():
                command.answer.set_exception(_told(error))
            return False
        unanswered.popleft()
        if not command.answer.done():
            command.answer.set_result(answer)
        return False

    async def _load_scripts(self) -> None:
        for text in _SCRIPTS.values():
            await self._connection.send_command("SCRIPT", "LOAD", text)
            await self._connection.read_response()

    def _lost(self, error: BaseException) -> None:
        self._counters.store_errors += 1
        text = str(error) or type(error).__name__
        if not self.away:
            _log.warning("the store is away", error=text)
        self.away = text

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
        if not self._connection.is_connected:
            self._watch_overdue()

    def _fail_all(self, error: TidegateError) -> None:
        while self._waiting:
            command = self._waiting.popleft()
            if not command.answer.done():
                command.answer.set_exception(error)


def _told(error: ResponseError) -> TidegateError:
    """The store's own refusal in our words."""
    text = str(error)
    if "OOM command not allowed" in text or type(error).__name__ == "OutOfMemoryError":
        return StoreFull("the store is out of memory; nothing was stored")
    if "MISCONF" in text:
        return StoreFull("the store cannot write to its disk; nothing was stored")
    if _is_damage(text):
        return StoreDamaged(f"the store holds what no script has written: {text}")
    return StoreUnavailable(f"the store refused a command: {text}")
