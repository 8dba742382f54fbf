"""Runs a data job again and again, killing it at random moments. Imports once, then forks every run."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_SERVER = """
import json, os, signal, sys, time
from importlib import import_module
import awkward, gigatoken
from megatron_srp.annotation.heuristic import HeuristicGuard
from megatron_srp.data import annotate, annotate_progress, builder, preprocess, progress, retry
from megatron_srp.errors import run_command
main = import_module(sys.argv[1]).main
for line in sys.stdin:
    argv, seconds = json.loads(line)
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run_command(lambda: main(argv))
    deadline = time.monotonic() + seconds
    done = 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
    if not done:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Jobs:
    """Starts runs of a command in processes of their own, one at a time.

    Args:
        module: whose `main` the command is.
    """

    def __init__(self, module: str = "megatron_srp.data.preprocess_cli") -> None:
        self._module = module

    def __enter__(self) -> "Jobs":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, "-c", _SERVER, self._module], text=True, **pipes)
        return self

    def __exit__(self, *_) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def run(self, argv: list[str], kill_after_s: float = 600.0) -> int:
        """The exit code of one run; -9 where it was killed before it ended."""
        self._server.stdin.write(json.dumps([argv, kill_after_s]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def kill_and_resume(flags: list[str], folder: Path, kills: int, seed: int) -> None:
    """Kill a job `kills` times, go on with the same command each time, and compare the result's bytes
    with those of a run that nobody disturbed. Raises AssertionError when they differ."""
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    with Jobs() as jobs:
        assert jobs.run([*flags, "--output-prefix", str(whole / "c")]) == 0
        started = time.monotonic()
        assert jobs.run([*flags, "--overwrite", "--output-prefix", str(whole / "c")]) == 0
        seconds = time.monotonic() - started
        expected = {path.name: path.read_bytes() for path in whole.iterdir()}
        done = 0
        while True:
            moment = rng.uniform(0, seconds) if done < kills else 600.0
            code = jobs.run([*flags, "--output-prefix", str(killed / "c")], moment)
            done += code == -signal.SIGKILL
            finished = (killed / "c.srp.json").exists() and not (killed / "c.srp-work" / "journal.json").exists()
            assert code in (0, -signal.SIGKILL) or finished, f"exit code {code} after {done} kills"
            if code == 0 or (finished and code != -signal.SIGKILL):
                result = {path.name: path.read_bytes() for path in killed.iterdir()}
                assert result == expected, f"after {done} kills"
                if done >= kills:
                    return
                shutil.rmtree(killed)
