"""Jobs for the tests: a corpus, torchrun, the fork server, and where a run writes."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENTRY_POINT = ["-m", "megatron_srp", "train"]
TRAINER = "megatron_srp.training.pretrain"  # what that command calls
REPOSITORY = Path(__file__).parents[2]
NUM_STEPS = 30
SAVE_INTERVAL = 15
LOADED = re.compile(r"successfully loaded checkpoint .* at iteration (\d+)")  # what a log says
# Of examples/pretrain_common.sh; without the worker Megatron would save in the step.
ASYNC = ["--async-save", "--use-persistent-ckpt-worker", "--async-strategy", "mcore"]


def environment() -> dict[str, str]:
    """The tests' own, but with byte code kept: Megatron's imports take twice the time without."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1"}


def torchrun(argv: list[str], timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """The command of the README: two processes under torchrun."""
    command = [*TORCHRUN, "--nproc-per-node", "2", *ENTRY_POINT, *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=REPOSITORY, env=environment())


@dataclass(frozen=True)
class Corpus:
    """Where the shard and the tokenizers are."""

    prefix: str
    tokenizer_with_pad_equal_to_eos: str
    other_tokenizer: str

    @property
    def flags(self) -> list[str]:
        """Flags of a run on this corpus; the tokenizer is the one that its manifest names."""
        flags = ["--srp-preset", "debug", "--data-path", self.prefix]
        flags += ["--seq-length", "128", "--micro-batch-size", "2", "--global-batch-size", "4"]
        flags += ["--train-iters", str(NUM_STEPS), "--save-interval", str(SAVE_INTERVAL)]
        return flags


@dataclass(frozen=True)
class Finished:
    """A job that has ended."""

    codes: list[int]
    log: str


@dataclass(frozen=True)
class Job:
    """A job under way."""

    server: "Forkserver"
    log: Path

    @property
    def group_file(self) -> Path:
        """Holds the id of the ranks' process group, and a line feed, once they have started."""
        return Path(f"{self.log}.group")

    @property
    def ended(self) -> bool:
        """Whether its ranks have."""
        assert self.server.process.stdout is not None
        return bool(select.select([self.server.process.stdout], [], [], 0)[0])

    def wait(self) -> Finished:
        """Wait for its end."""
        codes = self.server.answer()
        # A file for each rank: lines that two write into one at the same time can be torn.
        logs = sorted(self.log.parent.glob(f"{self.log.name}.[0-9]*"))
        return Finished(codes, "".join(log.read_text() for log in logs))


class Forkserver:
    """Starts jobs through `forkserver.py`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder, self.num_runs = process, folder, 0

    def run(
        self, world_size: int, argv: list[str], module: str = TRAINER, env: dict[str, str] | None = None
    ) -> Finished:
        """Run a job to its end: `module`'s `main()` on each rank, with `env` added to the environment."""
        return self._start(world_size, argv, module, env or {}).wait()

    def run_and_kill(
        self, world_size: int, argv: list[str], moment: Callable[[], bool], module: str = TRAINER
    ) -> Finished:
        """SIGKILL for all processes of a job as soon as `moment()`, asked every millisecond, is true."""
        job = self._start(world_size, argv, module, {})
        while not job.group_file.exists() or not (group := job.group_file.read_text()).endswith("\n"):
            time.sleep(0.001)
        deadline = time.monotonic() + 600
        while not moment() and time.monotonic() < deadline and not job.ended:
            time.sleep(0.001)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(int(group), signal.SIGKILL)
        return job.wait()

    def wait_for_all_to_end(self) -> None:
        """Wait until none of the processes of the latest job is left, its ranks' children included."""
        group = int((self.folder / f"run-{self.num_runs}.log.group").read_text())
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
        raise AssertionError("processes of the job are left")

    def _start(self, world_size: int, argv: list[str], module: str, env: dict[str, str]) -> "Job":
        self.num_runs += 1
        log = self.folder / f"run-{self.num_runs}.log"
        job = {"world_size": world_size, "argv": argv, "log": str(log), "module": module, "env": env}
        assert self.process.stdin is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return Job(self, log)

    def answer(self) -> list[int]:
        """The next line that the server writes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the fork server has ended; its stderr is in pytest's output"
        answer: list[int] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Run:
    """Where a run wrote its checkpoints and its TensorBoard scalars."""

    folder: Path

    @property
    def flags(self) -> list[str]:
        """Flags that make a run write there."""
        save, scalars = str(self.folder / "checkpoints"), str(self.folder / "tensorboard")
        return ["--save", save, "--tensorboard-dir", scalars]

    def resume(self, step: int) -> list[str]:
        """Flags that make another run continue from this one."""
        return ["--load", str(self.folder / "checkpoints"), "--ckpt-step", str(step)]

    def losses(self, name: str = "lm loss") -> dict[int, float]:
        """Loss in nats by step. (The printed one averages over the steps since the last line.)"""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        scalars = EventAccumulator(str(self.folder / "tensorboard"))
        scalars.Reload()
        return {event.step: event.value for event in scalars.Scalars(name)}
