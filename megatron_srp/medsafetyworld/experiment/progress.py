"""How far a run is: one bar over all steps on a terminal; in a log, a line for each step that ends.

Steps count by the CPU time they are expected to take, a training by how many of its iterations are done.
"""

import re
import time
from pathlib import Path

from megatron_srp.medsafetyworld.experiment.graph import Step
from megatron_srp.terminal.bar import Bar

_ITERATION = re.compile(rb"iteration +(\d+)/ *(\d+)")
_LOOK_BACK = 4096  # bytes of a log's end


class StepProgress:
    """A `runner.Watcher`; close it at the end."""

    def __init__(self, steps: list[Step]) -> None:
        self._all, self._total = len(steps), sum(step.seconds for step in steps)
        self._ended, self._done, self._skipped = 0, 0.0, 0.0
        self._running: dict[str, tuple[Step, Path]] = {}
        self._begun = time.monotonic()
        self._bar = Bar("bar", "percent", "counts", "running")
        self._bar.start()
        self._bar.begin(self._total)

    def started(self, step: Step, log: Path) -> None:
        self._running[step.name] = (step, log)

    def ended(self, step: Step, seconds: float, skipped: bool) -> None:
        self._running.pop(step.name, None)
        self._ended += 1
        self._done += step.seconds
        self._skipped += step.seconds * skipped
        if not skipped:
            self._bar.print(f"[{self._ended}/{self._all}] {step.name}  {seconds:.0f} s")

    def tick(self) -> None:
        if self._bar.live:
            done = self._done + sum(step.seconds * fraction_done(log) for step, log in list(self._running.values()))
            counts = f"{self._ended}/{self._all} steps, {self._left(done)}"
            self._bar.show(done, counts=counts, running=", ".join(self._running))

    def _left(self, done: float) -> str:
        made = done - self._skipped
        if made < 1:
            return "time left unknown"
        left = (time.monotonic() - self._begun) / made * (self._total - done)
        return f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"

    def close(self) -> None:
        self._bar.stop()


def fraction_done(log: Path) -> float:
    """Of a training's iterations, by the last line of its log that reports one; 0 for any other step."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOOK_BACK))
            found = _ITERATION.findall(file.read())
    except OSError:
        return 0.0
    return min(int(found[-1][0]) / int(found[-1][1]), 1.0) if found else 0.0
