"""What the user of the data job sees: a live line on a terminal, plain lines in a log, a summary."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_srp.data.preprocess import Progress

_LOG_EVERY_S = 30.0
_REDRAW_EVERY_S = 0.2


class ProgressDisplay:
    """Shows a run's `Progress` on stderr. Time left is told from the compressed bytes of the files."""

    def __init__(self, files: list[Path], resumed: Any = None) -> None:
        self._sizes = [file.stat().st_size for file in files]
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        if resumed:
            print(
                f"resuming at file {resumed['file'] + 1} of {len(files)}, row {resumed['row'] + 1}",
                file=sys.stderr,
            )

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")

    def warn(self, line: str) -> None:
        print(f"{'\r\033[K' if self._live else ''}warning: {line}", file=sys.stderr)

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < (_REDRAW_EVERY_S if self._live else _LOG_EVERY_S):
            return
        self._shown = now
        line = self._line(progress, now - self._started)
        if self._live:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        else:
            print(line, file=sys.stderr, flush=True)

    def _line(self, progress: Progress, seconds: float) -> str:
        done, total = sum(self._sizes[: progress.file]), sum(self._sizes)
        left = f"{seconds * (total - done) / done:.0f} s left" if done else "time left unknown"
        return (
            f"file {progress.file + 1}/{progress.files}  {progress.documents:,} documents  "
            f"{progress.bytes / 1e6 / seconds:.1f} MB/s  {progress.tokens / seconds:,.0f} tokens/s  "
            f"{progress.skipped:,} skipped  {left}"
        )


def print_summary(prefix: str, manifest: dict[str, Any], errors: list[str]) -> None:
    """Counts of the whole run, and the first of the rows that were left out."""
    counts = manifest["counts"]
    added = counts["tokens"] - counts["plain_tokens"]
    share = f" ({added / counts['plain_tokens']:.1%} more)" if counts["plain_tokens"] else ""
    rows = [
        ("documents", f"{counts['documents']:,}"),
        ("empty, left out", f"{counts['empty_documents']:,}"),
        ("bad rows, left out", f"{manifest['skipped_rows']:,}"),
        ("segments", f"{counts['segments']:,}"),
        *((f"  {verdict}", f"{n:,}") for verdict, n in counts["verdicts"].items()),
        ("tokens before", f"{counts['plain_tokens']:,}"),
        ("tokens after", f"{counts['tokens']:,}{share}"),
    ]
    for name, value in rows:
        print(f"{name:<20} {value}")
    for error in errors:
        print(f"left out: {error}")
    for shard in manifest["shards"]:
        print(f"wrote {Path(prefix).with_name(shard['name'])}.bin and .idx")
