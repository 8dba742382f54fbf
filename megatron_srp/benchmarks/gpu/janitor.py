"""Ends all that a run has started, and removes its temporary folder, once the run itself has ended.

    python janitor.py FOLDER RUN < PIPE        # started by start.py, which holds the pipe's other end

A run that is killed (kill -9) cannot clean up. The kernel's death signal reaches a child, but not a child's child, and
a process can leave its process group. What it inherits in any case is the environment, so each process of a run has
`MARK` there. (Linux only, as all of the check.)
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "SRP_GPU_CHECK"  # environment variable: the run's folder and, after a colon, the stage
_GIVE_UP_S = 10.0


def marked(mark: str) -> list[int]:
    """Ids of the processes whose `MARK` begins with `mark`; not those of other users."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if any(entry.startswith(wanted) for entry in (folder / "environ").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


def end_marked(mark: str, spare: set[int]) -> None:
    """Kill them, and what they start meanwhile, until none is left.

    Args:
        spare: ids of processes that are left alone.
    """
    deadline = time.monotonic() + _GIVE_UP_S
    while pids := set(marked(mark)) - spare:
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:  # asked after a try: the search alone may take as long on a stalled machine
            return
        time.sleep(0.02)


def main(folder: str, run: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the run closes it, or ends
    end_marked(folder, {os.getpid(), run})
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
