"""Child processes that end with the process that started them, however it ends, and not before.

A rank that is killed leaves its child processes running: a checkpoint worker, or the manager of its results, would
still hold GPU memory when the job is restarted. A scheduler that stops the job sends SIGTERM to all processes at
once: the ranks then save a last checkpoint (`--exit-signal-handler`), and need the worker.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LOOK_EVERY_S = 1.0


def end_with_maker() -> None:
    """For a process of `multiprocessing`: from now on it ends soon after the one that started it.

    That one need not be its parent: a fork server may be in between, which lives as long as one of its children.
    """
    maker = multiprocessing.parent_process()
    if maker is not None:
        threading.Thread(target=_end_after, args=(maker.pid,), name="maker-watch", daemon=True).start()


def _end_after(pid: int) -> None:
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            os.kill(pid, 0)
        except OSError:  # it is gone, or its pid is another user's
            os._exit(1)


def ends_with_this_process() -> Callable[[], None]:
    """The `preexec_fn` of a process that is not to outlive this one (on Linux; does nothing elsewhere)."""
    return partial(_end_with_parent, os.getpid())


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent has ended, which may have happened since the fork."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def beyond_sigterm() -> Iterator[None]:
    """Block SIGTERM for a process that is started inside, and for its children, which inherit the signal mask.

    In this process it is delivered again afterwards, including one that arrived in the meantime.
    """
    resource_tracker.ensure_running()  # starting it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_forks_with_this_process() -> None:
    """From now on, every fork of this process ends with it (a child that runs another program does not).

    Forks of other threads are excluded: the kernel's "parent" is the thread, which may end before its process.
    """
    forker: list[tuple[threading.Thread, int]] = []

    def before() -> None:
        forker[:] = [(threading.current_thread(), os.getpid())]

    def in_child() -> None:
        thread, pid = forker[0]
        if thread is main:
            _end_with_parent(pid)

    main = threading.main_thread()
    os.register_at_fork(before=before, after_in_child=in_child)
