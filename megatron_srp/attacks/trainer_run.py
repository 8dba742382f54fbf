"""A run of the trainer as a child process; its log says how far it is."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_srp.errors import OutputError
from megatron_srp.training.process.process_ends import ends_with_this_process

_LOOK_EVERY_S = 1.0
_STEP = re.compile(rb"iteration +(\d+)/ *(\d+) \|")


def run_trainer(command: Sequence[str], log: Path, on_step: Callable[[int, int], None]) -> None:
    """Run it to its end, with its output at the end of `log`.

    Args:
        on_step: called with the steps made and their number, whenever there are more.

    Raises:
        OutputError: when it fails; the log says why.
    """
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    with log.open("ab") as file, log.open("rb") as read:
        read.seek(0, os.SEEK_END)
        trainer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": paths},
            preexec_fn=ends_with_this_process(),  # else the next run would start a second one on the same checkpoints
        )
        code, steps = None, b""
        while code is None:
            code = _wait(trainer)
            steps += read.read()
            if found := _STEP.findall(steps):
                on_step(*map(int, found[-1]))
            steps = steps[steps.rfind(b"\n") + 1 :]  # the line that it is writing
    if code:
        raise OutputError(f"fine-tuning failed with exit code {code} ({_reason(log)}); the log is {log}")


def _wait(trainer: subprocess.Popen[bytes]) -> int | None:
    """The exit code, or None when it is still running after a moment."""
    try:
        return trainer.wait(_LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return None


def _reason(log: Path) -> str:
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return next((line for line in reversed(said) if line.startswith("error: ")), "see its end")
