"""The live view on a terminal. Imported only where there is one: rich takes longer to import than a small job."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from megatron_srp.data.progress import Progress, describe_counts


class LiveProgress(Bars):
    """A bar over the bytes of the input with speeds and time left, and the counts on a line below it."""

    def __init__(self) -> None:
        self._counts = ""
        super().__init__(
            TextColumn("file {task.fields[file]}/{task.fields[files]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            *(TextColumn(f"{{task.fields[{name}]}}") for name in ("text", "tokens", "left")),
            console=Console(stderr=True, highlight=False, markup=False),
            refresh_per_second=4,
            transient=True,
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self._counts)

    def show(self, progress: Progress, speed: dict[str, str]) -> None:
        """Draw `progress`, with `speed` as `Speed.measure` tells it."""
        if not self.tasks:
            self.add_task("", files=0, file=0, **speed)
            self.start()
        self._counts = describe_counts(progress)
        self.update(
            self.tasks[0].id,
            total=progress.size,
            completed=progress.consumed,
            files=progress.files,
            file=min(progress.file + 1, progress.files),
            **speed,
        )

    def print(self, line: str) -> None:
        """Show a line that stays above the bar."""
        self.console.print(line, soft_wrap=True)
