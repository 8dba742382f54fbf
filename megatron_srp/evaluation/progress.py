"""What the user of an evaluation sees: a bar on a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Any, Self

_LOG_EVERY_S = 30.0


class Progress:
    """A step at a time, on stderr.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._name, self._total, self._count = "", 0, 0
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[note]}"),
            )
            console = Console(stderr=True, highlight=False, markup=False)
            self._bar = Bar(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, name: str, total: int) -> None:
        """Begin something that takes `total` advances."""
        self._name, self._total, self._count = name, total, 0
        self._begun = self._shown = time.monotonic()
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=total, speed="", note="")

    def advance(self, count: int = 1) -> None:
        self._count += count
        now = time.monotonic()
        speed = f"{self._count / max(now - self._begun, 1e-9):,.1f}/s"
        if self._bar:
            self._bar.update(self._task, advance=count, speed=speed, note="")
        else:
            self._log(speed)

    def note(self, text: str) -> None:
        """How far the work is that the next advance will count."""
        if self._bar:
            self._bar.update(self._task, note=text)
        else:
            self._log(text)

    def _log(self, text: str) -> None:
        now = time.monotonic()
        if not self._quiet and now - self._shown >= _LOG_EVERY_S:
            self._shown = now
            print(f"{self._name}: {self._count} of {self._total}, {text}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(line, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
