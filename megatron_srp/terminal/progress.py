"""Progress of a data job: how far it is, its speed, and the interface that displays it."""

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Protocol


@dataclass(slots=True)
class Progress:
    """How far a run is. The sum over several concurrent runs is their combined progress.

    Attributes:
        files, size: input files, and their bytes on disk.
        file: how many of them are done.
        consumed: bytes of the files read, including those read by earlier runs.
        resumed: bytes read by earlier runs.
        bytes, documents, tokens, segments: of this run; bytes of text, tokens as written, segments classified.
        skipped: number of bad rows skipped.
        verdicts: segments by verdict, including those of earlier runs.
    """

    files: int
    size: int
    file: int = 0
    consumed: int = 0
    resumed: int = 0
    bytes: int = 0
    documents: int = 0
    tokens: int = 0
    skipped: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    segments: int = 0

    def __add__(self, other: "Progress") -> "Progress":
        names = [field.name for field in fields(self) if field.name != "verdicts"]
        numbers = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Progress(**numbers, verdicts=dict(Counter(self.verdicts) + Counter(other.verdicts)))


class Display(Protocol):
    """Receives a run's progress, and lines for the user."""

    def update(self, progress: Progress) -> None: ...

    def note(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


class Speed:
    """Rates of a run since its first update: the time before was spent starting, or resuming."""

    def __init__(self) -> None:
        self._first: tuple[float, Progress] | None = None

    def measure(self, progress: Progress) -> dict[str, str]:
        """`text` and `output` (tokens, or segments) per second and the time `left`, in words; empty where not
        known yet."""
        now = time.monotonic()
        # The first update is copied: a run keeps updating one object.
        since, first = self._first = self._first or (now, progress + Progress(0, 0))
        seconds = now - since
        read = progress.consumed - progress.resumed - (first.consumed - first.resumed)
        if seconds <= 0 or read <= 0:
            return {"text": "", "output": "", "left": ""}
        unit = "segments" if progress.segments else "tokens"
        made = getattr(progress, unit) - getattr(first, unit)
        return {
            "text": f"{(progress.bytes - first.bytes) / 1e6 / seconds:.1f} MB/s",
            "output": f"{made / seconds:,.0f} {unit}/s",
            "left": f"{_duration(max(progress.size - progress.consumed, 0) * seconds / read)} left",
        }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def describe_counts(progress: Progress) -> str:
    """Documents, segments by verdict and bad rows, in one line."""
    verdicts = [f"{verdict} {n:,}" for verdict, n in progress.verdicts.items()]
    skipped = [f"{progress.skipped:,} rows skipped"] if progress.skipped else []
    return "  ".join([f"{progress.documents:,} documents", *verdicts, *skipped])
