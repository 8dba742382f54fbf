"""How far each rank is, for its node's launcher to see: a hang ends the run long before the time-out of a collective.

A rank that hangs leaves the others waiting in a collective: all stand still, and the one that has done the fewest
micro-batches is the cause. A straggler holds the others up too, but moves.

A rank writes its count to a file in a folder that the launcher has made: a launcher can read it whatever the rank does.
"""

import functools
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_FOLDER = "SRP_PROGRESS_FOLDER"
# The first micro-batches compile kernels, and may take minutes.
_FEWEST = 3


@dataclass(frozen=True, order=True)
class Progress:
    """Of a group of ranks, in this start of the run.

    Attributes:
        micro_batches: that the slowest rank has done, the first of them if several are equal.
        rank: which one that is.
        patience_s: seconds that a micro-batch may take.
        most: micro-batches of the fastest.
        host: of the slowest.
    """

    micro_batches: int
    rank: int
    patience_s: float
    most: int
    host: str


def combine(parts: list[Progress | None]) -> Progress | None:
    """The progress of all nodes' ranks; None as long as a node has not begun."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return replace(min(known), most=max(part.most for part in known))


def count_micro_batches(forward_step: Callable[..., Any], timeout_minutes: float) -> Callable[..., Any]:
    """Megatron's forward step, but counting where a launcher wants to know.

    Args:
        timeout_minutes: of a collective; the launcher's patience is a third of it.
    """
    folder = os.environ.get(_FOLDER)
    if folder is None or not Path(folder).is_dir():
        return forward_step
    rank = int(os.environ["RANK"])
    file = os.open(Path(folder) / str(rank), os.O_WRONLY | os.O_CREAT, 0o600)
    done = 0

    @functools.wraps(forward_step)
    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = forward_step(*args, **kwargs)
        done += 1
        os.pwrite(file, f"{done:020d} {20 * timeout_minutes:012.3f}".encode(), 0)
        return result

    return counting


class ProgressFolder:
    """The launcher's side: the counts of this node's ranks."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="megatron-srp-"))
        self._host = socket.gethostname()
        os.environ[_FOLDER] = str(self.path)

    def read(self) -> Progress | None:
        """None as long as no rank has begun."""
        parts: list[Progress | None] = []
        for file in self.path.iterdir():
            count, _, patience = file.read_text().partition(" ")
            done = int(count or 0)  # an empty file was created a moment ago
            parts.append(Progress(done, int(file.name), float(patience), done, self._host) if patience else None)
        return combine(parts)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class HangDetector:
    """Tells a rank that only holds the others up from one that hangs.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: Progress | None = None
        self._since = now()
        self._noted = False

    def look(self, progress: Progress | None) -> tuple[str, bool] | None:
        """What is to be said of it now, and whether the run is to end: (line, False) once when the ranks are held up,
        (line, True) when one hangs. None if they move."""
        if progress != self._last:
            self._last, self._since, self._noted = progress, self._now(), False
        if progress is None or progress.most < _FEWEST:
            return None
        waited = self._now() - self._since
        if waited > progress.patience_s:
            return f"{_describe(progress, waited)}; rerun the command to resume", True
        if waited > progress.patience_s / 10 and not self._noted:
            self._noted = True
            return f"{_describe(progress, waited)}; the run ends at {progress.patience_s:.0f} s", False
        return None


def _describe(progress: Progress, waited: float) -> str:
    held_up = f"no micro-batch for {waited:.0f} s"
    if progress.micro_batches == progress.most:
        return f"{held_up}, and all ranks have done {progress.most:,}: a collective, a save or a backward pass hangs"
    count = f"with {progress.micro_batches:,} of {progress.most:,}"
    return f"{held_up}: the others wait for rank {progress.rank} on {progress.host}, {count}"
