"""Start a run on two simulated nodes in wrong ways: both nodes are to end, with one line that says what to do.

    python -m tests.soak.wrong_starts                 all of them, in some minutes; a row of a table each
    python -m tests.soak.wrong_starts "a read-only OUT"

Needs root, as `make soak` does. The logs are in out/wrong-starts/logs.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.errors import SrpError, UsageError
from tests.soak.job import FLAGS, SCRIPT, Job, Life
from tests.soak.nodes import Cluster, two_nodes
from tests.soak.starts import make_data, run_in_peace, start

SECONDS_TO_END = 400.0  # the preflight waits for other nodes for 300 s
OTHER_PORT = "29534"
_LINE = re.compile(r"^error.*?: (.*)$", re.MULTILINE)
_IN_A_MOUNT = ["bash", "-c", 'eval "$MOUNT" && exec "$@"', "bash"]  # of this process and those that it starts
Settings = dict[str, str]


@dataclass(frozen=True)
class WrongStart:
    """One way.

    Attributes:
        settings: of node 0 and node 1: variables of the scripts, and MOUNT, a command that changes what a node sees.
        says: what a line says on every node that has an error of its own.
        prepare: before it.
    """

    settings: tuple[Settings, Settings]
    says: str
    prepare: Callable[[Job], None] = lambda job: None


def both(**settings: str) -> tuple[Settings, Settings]:
    return settings, settings


def make_newer(job: Job) -> None:
    """Pretend that a newer Megatron has written the checkpoints."""
    for file in job.checkpoints.glob("iter_*/metadata.json"):
        file.write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 2}))


WRONG = {
    "the host's own name is a loopback address": WrongStart(
        both(GLOO_SOCKET_IFNAME=""),
        r"the host name \S+ (is 127|has no address).*; set GLOO_SOCKET_IFNAME, .* one of wire",
    ),
    "MASTER_ADDR is a loopback address": WrongStart(
        both(MASTER_ADDR="localhost"), r"--master-addr localhost is \S+ here .*, which other nodes cannot reach"
    ),
    "a MASTER_ADDR of another network": WrongStart(
        both(MASTER_ADDR="203.0.113.7"), r"--master-addr 203\.0\.113\.7: this host has no route to it|no route to 203"
    ),
    "NNODES that disagree, fewer on node 0": WrongStart(
        ({}, {"NNODES": "3"}), r"node 1 \(\S+\) has --nnodes 3, and node 0 \(\S+\) 2;"
    ),
    "NNODES that disagree, more on node 0": WrongStart(
        ({"NNODES": "3"}, {}), r"node 1 \(\S+\) has --nnodes 2, and node 0 \(\S+\) 3;"
    ),
    "an OUT that the nodes do not share": WrongStart(
        both(MOUNT='mkdir -p "$OUT" && mount -t tmpfs tmpfs "$OUT"'),
        r"--out \S+ on \S+ is not the folder that node 1 has under this name",
    ),
    "two jobs on one OUT": WrongStart(
        both(MASTER_PORT=OTHER_PORT), r"--save \S+: another job writes there \(.*process \d+\); end that one"
    ),
    "a read-only OUT": WrongStart(
        both(MOUNT='mount --bind "$OUT" "$OUT" && mount -o remount,bind,ro "$OUT"'),
        r"cannot be written.*Read-only file system",
    ),
    "checkpoints of a newer version": WrongStart(
        both(), r"iter_\d+ is of a newer format: torch_dist 2, and this version reads up to 1; install", make_newer
    ),
}
_BESIDE_A_RUN = "two jobs on one OUT"
_AFTER_A_RUN = ("a read-only OUT", "checkpoints of a newer version")


def main(names: list[str]) -> int:
    folder = Path("out/wrong-starts").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if unknown := set(names) - set(WRONG):
            raise UsageError(f"no such start: {', '.join(unknown)}; choose from {'; '.join(WRONG)}")
        with two_nodes(folder) as cluster:
            faults = _run_all(cluster, folder, names or [*WRONG])
    except SrpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if faults else 0


def _run_all(cluster: Cluster, folder: Path, names: list[str]) -> int:
    (folder / "logs").mkdir()
    job = Job(cluster, make_data(folder), cluster.disk / "run", folder / "logs")
    if set(names) & set(_AFTER_A_RUN):
        run_in_peace(job, "first", 6)
    return sum(_try(job, name) for name in names)


def _try(job: Job, name: str) -> bool:
    """Whether something was wrong with its end; prints a row."""
    first = start(job, f"{name}, first job", 1) if name == _BESIDE_A_RUN else None
    WRONG[name].prepare(job)
    life = _start(job, name)
    began = time.monotonic()
    seconds = life.wait_for_end(SECONDS_TO_END)
    fault = _judge(life, seconds, WRONG[name].says)
    if first is not None and first.ended():
        fault = "the first job ended"
    for node in range(2):
        job.cluster.kill(node)
    line = next((found for text in life.said() for found in _LINE.findall(text)), "")
    print(f"| {name} | {time.monotonic() - began:.0f} s | {line} | {fault} |", flush=True)
    return bool(fault)


def _start(job: Job, name: str) -> Life:
    life = Life([job.logs / f"{name}.node-{node}.log" for node in range(2)])
    variables = {"PRESET": "debug", "PRECISION": "bf16", "DATA": str(job.data), "OUT": str(job.out), "MOUNT": ":"}
    for node, log in enumerate(life.logs):
        settings = variables | WRONG[name].settings[node]
        life.launchers.append(job.cluster.start(node, [*_IN_A_MOUNT, *SCRIPT, *FLAGS], log, settings))
    return life


def _judge(life: Life, seconds: float | None, says: str) -> str:
    said = life.said()
    if seconds is None:
        return f"a node still ran {SECONDS_TO_END:.0f} s later"
    if any(launcher.returncode == 0 for launcher in life.launchers):
        return "a node ended with exit code 0"
    if any("Traceback" in text for text in said):
        return "a traceback"
    if not all(_LINE.search(text) for text in said):
        return "a node says nothing"
    return "" if any(re.search(says, line) for text in said for line in _LINE.findall(text)) else "another line"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
