"""The live view on a terminal. Imported only where there is one: importing rich takes longer than a small job."""

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from megatron_srp.terminal.progress import Progress, describe_counts


class LiveProgress:
    """A bar over the bytes of the input with speeds and time left, and the counts on a line below it."""

    def __init__(self) -> None:
        speeds = (TextColumn(f"{{task.fields[{name}]}}") for name in ("text", "output", "left"))
        files = TextColumn("file {task.fields[file]}/{task.fields[files]}")
        self._bar = Bar(files, BarColumn(bar_width=None), TaskProgressColumn(), *speeds, expand=True)
        self._counts = Text()
        self._live = Live(
            Group(self._bar, self._counts),
            console=Console(stderr=True, highlight=False, markup=False),
            refresh_per_second=4,
            transient=True,
        )

    def show(self, progress: Progress, speed: dict[str, str]) -> None:
        """Draw `progress`, with `speed` as `Speed.measure` reports it."""
        fields: dict[str, Any] = {
            "total": progress.size,
            "completed": progress.consumed,
            "file": min(progress.file + 1, progress.files),
            "files": progress.files,
            **speed,
        }
        self._counts.plain = describe_counts(progress)
        if self._bar.tasks:
            self._bar.update(self._bar.tasks[0].id, **fields)
        else:
            self._bar.add_task("", **fields)
            self._live.start()

    def print(self, line: str) -> None:
        """Print a permanent line above the bar."""
        self._live.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        """Restore the terminal."""
        self._live.stop()
