"""The job: one command, started again after each harm, as a user or a scheduler does."""

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.nodes import Cluster

SAVE_INTERVAL = 5
SCRIPT = ["bash", "examples/pretrain_common.sh"]
FLAGS = f"""--num-layers 2 --seq-length 64 --micro-batch-size 2 --global-batch-size 4 --train-iters 100000
    --lr-warmup-iters 10 --save-interval {SAVE_INTERVAL} --log-interval 1 --eval-iters 0 --num-workers 1
    --split 1,0,0""".split()
_STEP = re.compile(r"iteration +(\d+)/")


@dataclass
class Life:
    """One start of the job, up to the end of both nodes.

    Attributes:
        logs: of node 0 and 1.
        launchers: of both nodes.
    """

    logs: list[Path]
    launchers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def steps(self) -> list[int]:
        """Those that it has done."""
        return [int(step) for log in self.logs for step in _STEP.findall(log.read_text(errors="replace"))]

    def ended(self) -> bool:
        return all(launcher.poll() is not None for launcher in self.launchers)

    def wait_for_steps(self, count: int, seconds: float) -> bool:
        """Until it has done so many; False if it ends before, or does not get there in that time."""
        deadline = time.monotonic() + seconds
        while len(set(self.steps())) < count:
            if self.ended() or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait_for_end(self, seconds: float) -> float | None:
        """Seconds until both nodes had ended; None if they have not."""
        began = time.monotonic()
        while not self.ended():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def said(self) -> list[str]:
        """What each node has printed."""
        return [log.read_text(errors="replace") for log in self.logs]


@dataclass(frozen=True)
class Job:
    """The training and where it writes.

    Attributes:
        data: prefix of its shard.
        out: its OUT, on the cluster's disk.
        logs: folder of the logs of all starts.
    """

    cluster: Cluster
    data: Path
    out: Path
    logs: Path

    def start(self, name: str) -> Life:
        """Give the command to both nodes."""
        life = Life([self.logs / f"{name}.node-{node}.log" for node in range(2)])
        variables = {"PRESET": "debug", "PRECISION": "bf16", "DATA": str(self.data), "OUT": str(self.out)}
        for node, log in enumerate(life.logs):
            life.launchers.append(self.cluster.start(node, [*SCRIPT, *FLAGS], log, variables))
        return life

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def complete_checkpoints(self) -> list[Path]:
        """In the order of their steps; the tracker names the last complete one."""
        tracker = self.checkpoints / "latest_checkpointed_iteration.txt"
        last = int(tracker.read_text()) if tracker.exists() else -1
        return [path for path in sorted(self.checkpoints.glob("iter_*")) if int(path.name[5:]) <= last]
