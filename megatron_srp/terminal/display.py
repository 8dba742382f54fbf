"""Shows a run's progress and messages on stderr."""

import sys
import time
from types import TracebackType
from typing import Any

from megatron_srp.terminal.bar import is_terminal
from megatron_srp.terminal.progress import Progress, Speed, describe_counts

_LOG_EVERY_S = 30.0
_REDRAW_EVERY_S = 0.2


class ProgressDisplay:
    """Shows a run's `Progress` on stderr: live on a terminal, else a line every half minute."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._speed = Speed()
        self._live: Any = None
        if is_terminal():
            from megatron_srp.terminal.live import LiveProgress

            self._live = LiveProgress()

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def note(self, line: str) -> None:
        """Print a permanent line."""
        if self._live:
            self._live.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        self.note(f"warning: {line}")

    def update(self, progress: Progress) -> None:
        speed = self._speed.measure(progress)
        now = time.monotonic()
        if now - self._shown < (_REDRAW_EVERY_S if self._live else _LOG_EVERY_S):
            return
        self._shown = now
        if self._live:
            self._live.show(progress, speed)
        else:
            self.note(_log_line(progress, speed))


def _log_line(progress: Progress, speed: dict[str, str]) -> str:
    share = f"{progress.consumed / progress.size:.0%}" if progress.size else ""
    files = f"file {min(progress.file + 1, progress.files)}/{progress.files}"
    return "  ".join(filter(None, [files, share, describe_counts(progress), *speed.values()]))
