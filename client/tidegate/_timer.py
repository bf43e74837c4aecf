"""One thread that does things later, for the blocking client."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from tidegate._delivery import log
from tidegate.errors import TidegateError


class Alarm:
    """One thing to do later."""

    def __init__(self, action: Callable[[], object]):
        self._action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Not to be done any more. It may be under way already."""
        self._action = None

    def ring(self) -> None:
        """Does it, unless it was cancelled."""
        action, self._action = self._action, None
        if action is not None:
            action()


class Timer:
    """Runs short actions when they are due. Its thread starts with the first one."""

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._tie_break = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, delay_s: float, action: Callable[[], object]) -> Alarm:
        """Runs the action after that many seconds, on the timer's thread. It must not block."""
        alarm = Alarm(action)
        with self._changed:
            due_s = time.monotonic() + delay_s
            heapq.heappush(self._alarms, (due_s, next(self._tie_break), alarm))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="tidegate-timer", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return alarm

    def close(self) -> None:
        """Ends the thread. What is not due yet is never done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (alarm := self._next()) is not None:
            try:
                alarm.ring()
            except TidegateError as error:  # the client was closed meanwhile
                log.debug("a timed action is dropped: %s", error)
            except Exception:
                log.exception("a timed action failed")

    def _next(self) -> Alarm | None:
        with self._changed:
            while not self._closed:
                delay_s = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if delay_s is not None and delay_s <= 0:
                    return heapq.heappop(self._alarms)[2]
                self._changed.wait(delay_s)
            return None
