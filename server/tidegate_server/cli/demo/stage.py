"""What the demo looks like: a timeline of three columns, with the window filling below it."""

import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate_server.cli import output

_WIDTHS = (7, 22, 27, 22)
_HEADS = ("", "a person", "Tidegate", "the bot")
_STYLES = ("dim", "bold", "cyan", "green")
_BAR = 12


class Stage:
    """Rows come one below the other. On a terminal the last line shows the window as it fills."""

    def __init__(self) -> None:
        self.console = output.console()
        self._began_s = time.monotonic()
        self._opened_s = self._closes_s = 0.0
        self._waiting = 0
        self._live = Live(
            console=self.console,
            get_renderable=self._window,
            refresh_per_second=20,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def scene(self, title: str) -> None:
        """A new timeline, whose clock begins now."""
        self.console.print(f"\n{title}\n", style="bold")
        self._print(_HEADS, ("dim",) * 4)
        self._began_s = time.monotonic()

    def row(
        self, person: str = "", gate: str = "", bot: str = "", *, trouble: bool = False
    ) -> None:
        """Something happens now."""
        now = f"{time.monotonic() - self._began_s:.2f} s"
        styles = (*_STYLES[:3], "red" if trouble else _STYLES[3])
        self._print((now, person, gate, bot), styles)

    def waits(self, person: str, waiting: int, length_s: float) -> None:
        """Something changes a window, which is `length_s` long now."""
        now_s = time.monotonic()
        if not self._waiting:
            self._opened_s = now_s
        self._closes_s, self._waiting = self._opened_s + length_s, waiting
        self.row(person, f"{self._bar()} {waiting} waiting")

    def closed(self) -> None:
        """The window is gone."""
        self._waiting = 0

    def _print(self, texts: tuple[str, ...], styles: tuple[str, ...]) -> None:
        cells = [
            Text(text.ljust(width) + " ", style)
            for text, width, style in zip(texts, _WIDTHS, styles, strict=True)
        ]
        line = Text("  ").join([Text(""), *cells])
        line.rstrip()
        self.console.print(line, soft_wrap=True)

    def _bar(self) -> str:
        now_s, length_s = time.monotonic(), self._closes_s - self._opened_s
        share = min(1.0, (now_s - self._opened_s) / length_s) if length_s > 0 else 1.0
        full = round(share * _BAR)
        return "▰" * full + "▱" * (_BAR - full)

    def _window(self) -> Text:
        if not self._waiting:
            return Text()
        left_s = max(0.0, self._closes_s - time.monotonic())
        return Text(f"\n  window {self._bar()} closes in {left_s:.1f} s", "cyan")

    def summary(self, rows: list[tuple[str, str, str]]) -> None:
        """What it came to, beside what would have been."""
        table = Table.grid(padding=(0, 3))
        table.add_row("", "", Text("with Tidegate", "bold"), Text("without", "dim"))
        for name, with_it, without in rows:
            table.add_row("", Text(name, "dim"), Text(with_it, "green"), Text(without, "dim"))
        self.console.print("", table, "", sep="\n")
