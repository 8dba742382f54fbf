"""What is right about an end, and about what is left when all is done."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.job import SAVE_INTERVAL, Job, Life

SECONDS_TO_END = 60.0
# A save that has not ended is lost, and so is a damaged one.
MOST_STEPS_AGAIN = 4 * SAVE_INTERVAL
_CAUSE = re.compile(r"^(error.*: .*|ended by .*)$", re.MULTILINE)
_EXPECTED = re.compile(
    r"checkpoints/(latest_checkpointed_iteration\.txt|progress\.txt|srp-readings\.jsonl|srp-job\.lock|iter_\d+/[^/]+)"
    r"|cache/[^/]+-GPTDataset-train-[^/]+"
    r"|tensorboard/events[^/]+"
)
KEPT = 2
_CACHES = {"torchinductor_root"}  # of compiled kernels, for the next start


@dataclass
class Outcome:
    """How one start of the job ended.

    Attributes:
        harm: that struck it.
        last_step: when it struck.
        seconds: until both nodes had ended.
        steps_again: that the next start repeated.
        cause: the line that named it, on a node that lived.
        faults: what was wrong with the end.
    """

    harm: str
    last_step: int
    seconds: float | None
    steps_again: int = 0
    cause: str = ""
    faults: list[str] = field(default_factory=list)


def judge_end(harm: str, survivors: int, life: Life, seconds: float | None) -> Outcome:
    """Look at an end: in time, no exit code 0, no traceback, and a line that names the cause."""
    outcome = Outcome(harm, max(life.steps()), seconds)
    said = life.said()
    lines = [_CAUSE.findall(text) for text in said]
    outcome.cause = next((found[-1] for found in lines if found), "")
    if seconds is None:
        outcome.faults.append(f"a node still ran {SECONDS_TO_END:.0f} s later")
    if any(launcher.returncode == 0 for launcher in life.launchers):
        outcome.faults.append("a node ended with exit code 0")
    if any("Traceback" in text for text in said):
        outcome.faults.append("a traceback")
    if sum(bool(found) for found in lines) < survivors:
        outcome.faults.append("no line with the cause")
    return outcome


def judge_resume(outcome: Outcome, next_life: Life) -> None:
    """Look at where the next start resumed."""
    outcome.steps_again = outcome.last_step - min(next_life.steps()) + 1
    if outcome.steps_again > MOST_STEPS_AGAIN:
        outcome.faults.append(f"{outcome.steps_again} steps were done again")


def find_left_over(job: Job) -> list[str]:
    """Files and processes that no run needs."""
    files = [path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file()]
    found = [name for name in files if not _EXPECTED.fullmatch(name)]
    checkpoints = sorted(job.checkpoints.glob("iter_*"))
    if len(checkpoints) > KEPT:
        found.append(f"{len(checkpoints)} checkpoints, not {KEPT}")
    found += [f"temporary {path.name}" for path in job.cluster.temporary.iterdir() if path.name not in _CACHES]
    return found + [f"process {pid} of node {node}" for node in range(2) for pid in job.cluster.processes(node)]


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of all starts, from the TensorBoard files; a step that was done again is there again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file)).Reload()
        if "lm loss" in events.Tags()["scalars"]:
            found += [(event.step, event.value) for event in events.Scalars("lm loss")]
    return found


def compare_losses(harmed: list[tuple[int, float]], undisturbed: list[tuple[int, float]]) -> list[str]:
    """The faults: a step without a loss, or with another one."""
    wanted = dict(undisturbed)
    last = max(dict(harmed), default=0)
    missing = set(range(1, last + 1)) - set(dict(harmed))
    found = [f"step {step} has no loss" for step in sorted(missing)]
    return found + [
        f"step {step}: {loss:.6f}, undisturbed {wanted.get(step)}" for step, loss in harmed if wanted.get(step) != loss
    ]
