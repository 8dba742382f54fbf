"""What the user of the annotator sees: a live line on a terminal, plain lines in a log, a report."""

import sys
import time
from types import TracebackType

from megatron_srp.data.annotate.annotate import AnnotateProgress, Annotator

_LOG_EVERY_S = 30.0
_REDRAW_EVERY_S = 0.2
_SHOWN = 10


class AnnotateDisplay:
    """Shows a run's `AnnotateProgress` on stderr. Time left is told from the compressed bytes of the files."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._begun = -1  # files that earlier runs had done

    def __enter__(self) -> "AnnotateDisplay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")

    def warn(self, line: str) -> None:
        print(f"{'\r\033[K' if self._live else ''}warning: {line}", file=sys.stderr)

    def update(self, progress: AnnotateProgress) -> None:
        if self._begun < 0:
            self._begun = progress.file
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

    def _line(self, progress: AnnotateProgress, seconds: float) -> str:
        sizes = [file.stat().st_size for file in progress.files[self._begun :]]
        done = sum(sizes[: progress.file - self._begun])
        left = f"{seconds * (sum(sizes) - done) / done:,.0f} s left" if done else "time left unknown"
        verdicts = "  ".join(f"{name} {count:,}" for name, count in sorted(progress.verdicts.items()))
        return (
            f"file {progress.file + 1}/{len(progress.files)}  {progress.segments:,} segments  "
            f"{progress.segments / seconds:,.0f} segments/s  {verdicts}  {left}"
        )


def print_report(job: Annotator) -> None:
    """Counts of this run, what got no verdict and why, and what is left to be done in the store."""
    progress, failures = job.progress, job.failures
    incidents = job.guard.incidents + getattr(job.guard, "engine", job.guard).incidents
    rows = [
        ("documents", progress.documents),
        ("bad rows, left out", len(job.errors)),
        ("segments", progress.segments),
        *((f"  {verdict}", count) for verdict, count in sorted(progress.verdicts.items())),
        ("  no verdict", failures.failed),
        *((f"  {what}", count) for what, count in sorted(incidents.items())),
    ]
    for name, count in rows:
        print(f"{name:<24} {count:,}")
    for error in job.errors[:_SHOWN]:
        print(f"left out: {error}")
    for example in failures.examples:
        print(f"no verdict: {example}")
    waiting = sum(part.failed for number in job.own for part in job.store.summaries(job.key, job.fingerprints[number]))
    if waiting:
        print(f"{waiting:,} segments of these files have no verdict in the store; try them again with --retry-failed")
