"""A progress bar on stderr where that is a terminal, and permanent lines; in a log, only the lines."""

import os
import sys
from typing import Any


def is_terminal() -> bool:
    """Whether stderr can show a moving bar."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Bar:
    """Shows one task at a time, from `start` to `stop`.

    rich is imported only where there is a terminal: importing it takes longer than a small job.

    Args:
        columns: from left to right: "bar", "percent", "count" (done of all), "left" (time), or the name of a text
            that `show` is given.
        quiet: show nothing, whatever stderr is.
    """

    def __init__(self, *columns: str, quiet: bool = False) -> None:
        self._columns, self._quiet = columns, quiet
        self._bar: Any = None
        self._task: Any = None
        self._texts: dict[str, str] = {}

    def start(self) -> None:
        """Start the bar, where there is a terminal."""
        if self._quiet or not is_terminal():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as Left

        made = {"bar": BarColumn(), "percent": TaskProgressColumn(), "count": MofNCompleteColumn(), "left": Left()}
        self._texts = {name: "" for name in self._columns if name not in made}
        shown = [made.get(name) or TextColumn(f"{{task.fields[{name}]}}") for name in self._columns]
        console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(*shown, console=console, transient=True)
        self._bar.start()

    @property
    def live(self) -> bool:
        """Whether there is a bar, rather than only lines."""
        return self._bar is not None

    def begin(self, total: float, **texts: str) -> None:
        """Start a new task in place of the previous one."""
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task("", total=total, **self._texts | texts)

    def show(self, done: float | None = None, **texts: str) -> None:
        """Update how much of the task is done, where that has changed, and the texts of columns."""
        if self._bar:
            self._bar.update(self._task, completed=done, **texts)

    def print(self, line: str) -> None:
        """Print a permanent line."""
        if self._bar:
            self._bar.console.print(line, soft_wrap=True)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Restore the terminal."""
        if self._bar:
            self._bar.stop()
