"""What the user of an evaluation sees: a bar on a terminal, plain lines in a log."""

import time
from types import TracebackType
from typing import Self

from megatron_srp.terminal.bar import Bar

_LOG_EVERY_S = 30.0


class Progress:
    """A step at a time, on stderr.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._bar = Bar("name", "bar", "count", "speed", "note", "left", quiet=quiet)
        self._name, self._total, self._count = "", 0, 0
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, name: str, total: int) -> None:
        """Begin a step of `total` advances."""
        self._name, self._total, self._count = name, total, 0
        self._begun = self._shown = time.monotonic()
        self._bar.begin(total, name=name)

    def advance(self, count: int = 1) -> None:
        self._count += count
        speed = speed_of(self._count, time.monotonic() - self._begun)
        self._bar.show(self._count, speed=speed, note="")
        self._log(speed)

    def note(self, text: str) -> None:
        """How far the work is that the next advance counts."""
        self._bar.show(note=text)
        self._log(text)

    def _log(self, text: str) -> None:
        now = time.monotonic()
        if not self._bar.live and now - self._shown >= _LOG_EVERY_S:
            self._shown = now
            self._bar.print(f"{self._name}: {self._count} of {self._total}, {text}")

    def say(self, line: str) -> None:
        """A line that stays."""
        self._bar.print(line)


def speed_of(count: int, seconds: float) -> str:
    """As `12.5/s`, or `40.0 s each` for what is slow."""
    if 0 < count < seconds:
        return f"{seconds / count:,.1f} s each"
    return f"{count / max(seconds, 1e-9):,.1f}/s"
