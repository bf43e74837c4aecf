"""Whatever a test wants to choose, chosen by bytes: of hypothesis, of atheris, or by chance."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_SPECIAL = "\0\n\r\t \x7f\x85{}/:-\\\"'<>%\u00e9\u200b\ud7ff\uffff\U0001f600"
_EXTREME = (0, 1, -1, 2, 127, 128, 255, 256, 4300, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53)
_HUGE = (2**63 - 1, -(2**63), 10**18, 253_402_300_800, -62_135_596_801, 999_999_999, 1_000_000_000)


class Dice:
    """Throws that come from the bytes; once these are used up all are 0, so that anything ends."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, most: int) -> int:
        """From 0 to one less than `most`, which is at most 65,536."""
        drawn = self.byte() if most <= 256 else self.byte() << 8 | self.byte()
        return drawn % most

    def often(self) -> bool:
        """Three times in four, and always at the end."""
        return self.below(4) < 3

    def pick(self, items: Sequence[Item]) -> Item:
        """One of them; the first at the end."""
        return items[self.below(len(items))]

    def take(self, most: int = 40) -> bytes:
        """The next few bytes as they are."""
        length = self.below(most)
        found = self._data[self._at : self._at + length]
        self._at += length
        return found

    def rest(self) -> bytes:
        """All that is left."""
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def number(self, low: int = -(2**63), high: int = 2**63 - 1) -> int:
        """A whole number, most often a small or an extreme one."""
        kind = self.below(3)
        drawn = self.byte() if kind == 0 else self.pick(_EXTREME if kind == 1 else _HUGE)
        return drawn if low <= drawn <= high else low

    def text(self, most: int = 20) -> str:
        """A text that UTF-8 knows, with what is likely to be mistaken for something else."""
        kind = self.below(4)
        if kind == 0:
            return self.take(most).decode("ascii", "replace").replace("\ufffd", "a")
        if kind == 1:
            return "".join(self.pick(_SPECIAL) for _ in range(self.below(most)))
        if kind == 2:
            return self.take(most).decode(errors="replace")
        return self.pick("a{é") * self.pick((1, 64, 65, 128, 129, 256, 257, 1024, 1025))

    def mutated(self, data: bytes) -> bytes:
        """The bytes with a few changes."""
        changed = bytearray(data)
        for _ in range(1 + self.below(4)):
            at = self.below(min(len(changed) + 1, 65_536))
            match self.below(5):
                case 0:
                    changed[at : at + 1] = bytes([self.byte()])
                case 1:
                    changed[at:at] = self.take(8)
                case 2:
                    del changed[at : at + 1 + self.below(8)]
                case 3:
                    del changed[at:]
                case _:
                    changed[at:at] = changed[: self.below(32)]
        return bytes(changed)

    def json(self, depth: int = 3) -> object:
        """Anything that JSON can say."""
        match self.below(8 if depth else 6):
            case 0:
                return None
            case 1:
                return self.number()
            case 2:
                return self.text()
            case 3:
                return self.pick((True, False, 1.5, 1e308, float("nan"), float("inf"), -0.0))
            case 4:
                return self.pick(("", "\ud800", "bot/anna", "bot", "due", "1-1-1"))
            case 5:
                return 10 ** self.pick((1, 19, 30, 400))
            case 6:
                return [self.json(depth - 1) for _ in range(self.below(4))]
            case _:
                return {self.text(6): self.json(depth - 1) for _ in range(self.below(3))}
