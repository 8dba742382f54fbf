"""One job at a time writes into a folder of checkpoints: two would delete and overwrite each other's."""

import os
import socket
import time
from pathlib import Path

from megatron_srp.errors import UsageError
from megatron_srp.files import try_lock
from megatron_srp.training.process.exits import print_note

LOCK = "srp-job.lock"
# A job that has just been killed may still have a process, and an NFS server keeps a lost node's locks for a while.
SECONDS_TO_WAIT = 100.0
_EVERY_S = 1.0


def lock_folder(save: str | None) -> None:
    """Rank 0's: hold the folder of `--save` until this process ends, however it ends.

    Raises:
        UsageError: when another job holds it.
    """
    if save is None or "://" in save:
        return
    folder = Path(save)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    os.register_at_fork(after_in_child=lambda: _close(descriptor))  # a child that outlives its rank must not hold it
    try:
        _wait(folder, descriptor)
    except OSError as error:
        reason = f"its file system has no locks ({error.strerror})"
        print_note(f"--save {folder}: {reason}; see that no other job writes there")
        return
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{socket.gethostname()}, process {os.getpid()}\n".encode(), 0)


def _wait(folder: Path, descriptor: int) -> None:
    end, noted = time.monotonic() + SECONDS_TO_WAIT, False
    while not try_lock(descriptor):
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        held = f"--save {folder}: another job writes there ({holder})"
        if time.monotonic() > end:
            raise UsageError(f"{held}; end that one, or pass another folder")
        if not noted:
            noted = True
            print_note(f"{held}; waiting {SECONDS_TO_WAIT:.0f} s for its end")
        time.sleep(_EVERY_S)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:  # the child has closed what it inherited
        return
