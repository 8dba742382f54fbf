"""Child processes that end with the process that made them, however that ends, and not before it does.

A rank that is killed leaves what it has started behind: with a checkpoint worker, or the manager of its results,
a node would still hold memory of a GPU when the job is started again. A scheduler that wants the job's end sends
SIGTERM to all processes at once: the ranks save a last checkpoint then (`--exit-signal-handler`), and need the worker.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LOOK_EVERY_S = 1.0


def end_with_maker() -> None:
    """For a process of `multiprocessing`: from now on it ends soon after the one that made it.

    That one need not be its parent: a fork server is, in between, and lives as long as one of its children.
    """
    maker = multiprocessing.parent_process()
    if maker is not None:
        threading.Thread(target=_end_after, args=(maker.pid,), name="maker-watch", daemon=True).start()


def _end_after(pid: int) -> None:
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            os.kill(pid, 0)
        except OSError:  # it is gone, or its number is another user's
            os._exit(1)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent has ended (Linux; elsewhere nothing)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def beyond_sigterm() -> Iterator[None]:
    """No SIGTERM reaches a process that is started inside, nor what that one starts: they inherit that it is blocked.

    Here it gets through again afterwards, one that came meanwhile included.
    """
    resource_tracker.ensure_running()  # whoever starts it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_forks_with_this_process() -> None:
    """From now on, all that is forked here does so (what is started as another program does not).

    What a thread forks is left out: the kernel's "parent" is the thread, which may end before its process.
    """
    forker: list[threading.Thread] = []

    def before() -> None:
        forker[:] = [threading.current_thread()]

    def in_child() -> None:
        if forker[0] is main:
            end_with_parent()

    main = threading.main_thread()
    os.register_at_fork(before=before, after_in_child=in_child)
