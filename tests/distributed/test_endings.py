"""Jobs that end early: by a scheduler, whose SIGTERM torchrun passes on to all processes of every rank, or by a crash."""

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_srp.training.process.repair_tracker import TRACKER
from tests.distributed.jobs import ASYNC, ENTRY_POINT, LOADED, REPOSITORY, TORCHRUN, Corpus, Run, environment

# What examples/ pass, and workers that read the data: Megatron has them pass over SIGTERM.
FLAGS = [*ASYNC, "--exit-signal-handler", "--num-workers", "1"]
KILLED = "forcefully exiting"  # torchrun waits 30 s
STEP = re.compile(r"\biteration +(\d+)/")


def steps_done(log: Path) -> int:
    """The last step that the log speaks of."""
    return max(map(int, STEP.findall(log.read_text())), default=0)


def terminate(command: list[str], log: Path, moment: Callable[[], bool]) -> None:
    """Start a job, send torchrun a SIGTERM as soon as `moment()` is true, and wait for its end."""
    with log.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=file, cwd=REPOSITORY, env=environment())
    try:
        deadline = time.monotonic() + 600
        while not moment():
            assert job.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=300)
    finally:
        job.terminate()


@pytest.mark.exhaustive
@pytest.mark.parametrize("in_a_save", [False, True])
def test_the_last_checkpoint_before_a_scheduler_ends_the_job(in_a_save: bool, corpus: Corpus, tmp_path: Path) -> None:
    run, log = Run(tmp_path), tmp_path / "log"
    checkpoints = tmp_path / "checkpoints"
    steps = ["--train-iters", "5000", "--save-interval", "7" if in_a_save else "1000", "--log-interval", "1"]
    argv = [*corpus.flags, *FLAGS, *steps, *run.flags]
    command = [*TORCHRUN, "--nproc-per-node", "2", *ENTRY_POINT, *argv, "--load", str(checkpoints)]

    def moment() -> bool:
        return any(checkpoints.glob("iter_*/*.distcp")) if in_a_save else steps_done(log) >= 3

    terminate(command, log, moment)
    said = log.read_text()
    assert "error:" not in said, said
    assert "note: exiting program after receiving SIGTERM; the same command resumes it" in said
    assert KILLED not in said
    last = steps_done(log)
    assert (checkpoints / TRACKER).read_text() == str(last)
    resumed = subprocess.run(
        [*command, "--exit-interval", str(last + 1)], capture_output=True, text=True, timeout=600, env=environment()
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert LOADED.findall(resumed.stdout) == [str(last)]


@pytest.mark.exhaustive
def test_a_crash_ends_every_rank_at_once(corpus: Corpus, tmp_path: Path) -> None:
    """Workers that read data, and the one that writes checkpoints, are no reason to stay."""
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "tests.distributed.crash_in_a_step", *corpus.flags, *FLAGS]
    command += ["--save-interval", "3", *Run(tmp_path).flags]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=REPOSITORY, env=environment(), check=False
    )
    assert done.returncode == 1
    assert "traceback : ValueError: nobody foresaw this" in done.stderr  # in torchrun's summary
    assert (tmp_path / "checkpoints" / TRACKER).read_text() in ("3", "6")
