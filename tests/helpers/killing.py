"""Runs a data job again and again, killing it at random moments. Imports once, then forks every run.

A moment is a time, or a number of calls that change what is on disk (files opened to be written, renamed,
removed, synced): a commit or the finish is over in a few milliseconds, which random times would seldom hit.
"""

import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_CALLS = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}  # names of Python's audit events


def kill_at_call(number: int | None, count: mmap.mmap) -> None:
    """Have this process killed (kill -9) just before the `number`th call that changes what is on disk.

    Args:
        number: from 1; None for never.
        count: eight bytes in which the calls are counted.
    """

    def happens() -> None:
        calls = int.from_bytes(count[:], "little") + 1
        count[:] = calls.to_bytes(8, "little")
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple) -> None:
        opens = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opens or event in _CALLS:
            happens()

    def fsync(descriptor: int, _fsync=os.fsync) -> None:  # not audited
        happens()
        _fsync(descriptor)

    vars(os)["fsync"] = fsync
    sys.addaudithook(hook)


def serve(module: str) -> None:
    """Fork and run a job for every line of stdin: its arguments, seconds to live, calls to live.

    Args:
        module: whose `main` runs the job.
    """
    import awkward  # noqa: F401
    import gigatoken  # noqa: F401

    from megatron_srp.errors import run_command

    main = import_module(module).main

    count = mmap.mmap(-1, 8)
    for line in sys.stdin:
        argv, seconds, call = json.loads(line)
        count[:] = bytes(8)
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            kill_at_call(call, count)
            run_command(lambda: main(argv))  # noqa: B023
        deadline = time.monotonic() + seconds
        done = 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), int.from_bytes(count[:], "little")]), flush=True)


class Jobs:
    """Starts runs of a command in processes of their own, one at a time.

    Args:
        module: whose `main` the command is.
    """

    def __init__(self, module: str = "megatron_srp.cli.preprocess") -> None:
        self._module = module

    def __enter__(self) -> "Jobs":
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.killing", self._module], text=True, cwd=ROOT, **pipes
        )
        return self

    def __exit__(self, *_) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=600)

    def run(self, argv: list[str], seconds: float = 600.0, call: int | None = None) -> tuple[int, int]:
        """The exit code of one run, -9 where it was killed before it ended, and its calls to the disk."""
        self._server.stdin.write(json.dumps([argv, seconds, call]) + "\n")
        self._server.stdin.flush()
        code, calls = json.loads(self._server.stdout.readline())
        return code, calls


def kill_and_resume(flags: list[str], folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill a job `kills` times, go on with the same command each time, and compare the result's bytes
    with those of a run that nobody disturbed. Every other kill is at a random call, the others at random times.

    Returns:
        How many kills hit each phase of a run, and how many results were compared.

    Raises:
        AssertionError: when they differ, or a run fails.
    """
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    seen: Counter[str] = Counter()
    with Jobs() as jobs:
        assert jobs.run([*flags, "--output-prefix", str(whole / "c")])[0] == 0
        started = time.monotonic()
        code, calls = jobs.run([*flags, "--overwrite", "--output-prefix", str(whole / "c")])
        seconds = time.monotonic() - started
        assert code == 0
        expected = contents(whole)
        done = 0
        while True:
            moment: dict[str, Any] = {}
            if done < kills:
                moment = {"call": rng.randint(1, calls)} if done % 2 else {"seconds": rng.uniform(0, seconds)}
            code, _ = jobs.run([*flags, "--output-prefix", str(killed / "c")], **moment)
            finished = (killed / "c.srp.json").exists() and not (killed / "c.srp-work" / "journal.json").exists()
            if code == -signal.SIGKILL:
                done += 1
                seen[phase(killed)] += 1
            elif code == 0 or finished:
                assert contents(killed) == expected, f"the result differs after {done} kills"
                seen["results compared"] += 1
                if done >= kills:
                    return seen
                shutil.rmtree(killed)
            else:
                raise AssertionError(f"exit code {code} after {done} kills")


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files under `folder`, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def phase(folder: Path) -> str:
    """What the run that left `folder` was doing."""
    work = folder / "c.srp-work"
    if not (work / "journal.json").exists():
        return "killed as it cleaned up" if (folder / "c.srp.json").exists() else "killed before its first commit"
    if "finishing" in json.loads((work / "journal.json").read_text()):
        return "killed as it renamed"
    return "killed as it sealed" if list(work.glob("*.idx")) else "killed as it wrote"


if __name__ == "__main__":
    serve(sys.argv[1])
