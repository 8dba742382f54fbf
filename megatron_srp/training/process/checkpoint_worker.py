"""Monitors the process that writes a rank's checkpoints with `--async-save`.

Megatron hands each save to it and waits for its answer, but does not check that it is alive. If it is gone
(killed because the machine ran out of memory, say), its rank would wait forever, and all the others for that one.
"""

import atexit
import sys
import threading
import time
from multiprocessing import resource_sharer
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from megatron_srp.training.process.extensions import hide_broken_engine

hide_broken_engine()  # a worker that is not forked imports this module before any of Megatron's

from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

from megatron_srp.errors import OutputError
from megatron_srp.training.process.exits import exit_alone
from megatron_srp.training.process.process_ends import beyond_sigterm, end_forks_with_this_process, end_with_maker
from megatron_srp.training.process.write_errors import keep_reasons_of_failed_writes

_LOOP = PersistentAsyncCaller.async_loop  # before it is replaced
# After the worker's end, how often to look for Megatron's, or the rank's, own: where its code is no reason for it, and
# where it is. Megatron drops a worker that it has closed once it is gone, which takes its time on a busy machine.
_LOOKS_IF_CLOSED, _LOOKS_IF_KILLED, _LOOK_EVERY_S = 1200, 60, 0.05
_NO_CONNECTION = 3  # the worker's exit code when it has lost the process that collects its results


def watch_checkpoint_worker() -> None:
    """From now on this rank ends, with one line and exit code 1, when its checkpoint worker has died. The worker
    and everything else that the rank has forked end when the rank has, and not on SIGTERM."""
    start: Any = PersistentAsyncCaller._get_process  # bound to the class
    known: list[Any] = []
    leaving = threading.Event()

    def leave() -> None:  # at exit Python would send a remaining worker SIGTERM and wait for it
        leaving.set()
        for process in known:
            process.kill()

    atexit.register(leave)

    def get_process(*args: Any, **kwargs: Any) -> Any:
        with beyond_sigterm():
            process = start(*args, **kwargs)
        if not known:
            _leave_out_lost_transfers()
        if process not in known:
            known.append(process)
            threading.Thread(target=_watch, args=(process, leaving), name="checkpoint-watch", daemon=True).start()
        return process

    PersistentAsyncCaller._get_process = get_process
    PersistentAsyncCaller.async_loop = staticmethod(worker_loop)
    end_forks_with_this_process()


def _leave_out_lost_transfers() -> None:
    """A worker may die while it takes over a tensor's memory. Python's thread for that, here in the rank, would add a
    traceback to the line that reports it. Called after torch has installed its own hook."""
    show = sys.excepthook

    def show_others(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        where = trace.tb_frame.f_code.co_filename if trace else ""
        if where != resource_sharer.__file__ or not issubclass(kind, EOFError | OSError):
            show(kind, error, trace)

    sys.excepthook = show_others


def worker_loop(*args: Any) -> None:
    """What the worker runs. Megatron's own loop waits for its next save forever, whatever happens to the rank."""
    end_with_maker()
    keep_reasons_of_failed_writes()
    try:
        _LOOP(*args)
    except (ConnectionError, EOFError):
        sys.exit(_NO_CONNECTION)


def _watch(process: Any, leaving: threading.Event) -> None:
    wait([process.sentinel])
    looks = 0
    # The code is unknown while it is on its way out, or while Megatron itself waits for it.
    while looks < (_LOOKS_IF_CLOSED if process.exitcode in (0, None) else _LOOKS_IF_KILLED):
        if PersistentAsyncCaller._persistent_process is not process or leaving.is_set():
            return
        looks += 1
        time.sleep(_LOOK_EVERY_S)
    exit_alone(
        OutputError(
            f"the process that writes this rank's checkpoints has died ({_how(process.exitcode)}): what it had not "
            "finished is lost; rerun the command to resume from the last complete checkpoint"
        )
    )


def _how(code: int | None) -> str:
    if code == _NO_CONNECTION:
        return "the one that collects its results was killed; has the machine run out of memory?"
    if code is not None and code < 0:
        return f"by signal {-code}; has the machine run out of memory?"
    return f"exit code {code}"
