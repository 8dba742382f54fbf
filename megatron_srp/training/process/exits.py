"""Messages of ranks, and how one ends for a known reason: one line, an exit code, and no rank left waiting."""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from megatron_srp.errors import OutputError, SrpError
from megatron_srp.training.process import patience

SECONDS_FOR_RANK_0, MOST_SECONDS_FOR_RANK_0 = 5.0, 120.0
_STARTED = time.monotonic()


class AnotherRankEnded(OutputError):
    """This rank cannot continue, and the cause is elsewhere."""

    MESSAGE = "another rank has ended; see its error"

    def __init__(self) -> None:
        super().__init__(self.MESSAGE)


class ThisRankFailed(OutputError):
    """The cause is on this rank alone: it does not wait for the others to find it too."""


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def print_note(text: str) -> None:
    """A line for the user, from rank 0 only."""
    if rank() == 0:
        print(f"note: {text}", flush=True)


def exit_together(error: SrpError) -> NoReturn:
    """For errors that all ranks find: exit with the error's code on every rank, and its message on rank 0 only.

    The ranks find the same error at different times, and torchrun stops the others as soon as
    one has exited, so the others wait until rank 0 has printed. If nothing stops them, rank 0 has
    not found this error (a file missing on one node, say), and they print it themselves.
    """
    if rank() != 0 or isinstance(error, AnotherRankEnded):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(error.exit_code))
        patience.sleep(_seconds_for_rank_0(error))
    _exit(error)


def _seconds_for_rank_0(error: SrpError) -> float:
    """The time this rank has run so far: on a busy machine the ranks reach an error of the start many seconds apart."""
    if isinstance(error, AnotherRankEnded):
        return SECONDS_FOR_RANK_0
    return min(max(SECONDS_FOR_RANK_0, time.monotonic() - _STARTED), MOST_SECONDS_FOR_RANK_0)


def exit_alone(error: SrpError) -> NoReturn:
    """For errors of this rank alone, from any thread; torchrun stops the others, which may be waiting for it.

    The rank's child processes end with it: a child that outlives it may hold GPU memory.
    """
    _kill_children()
    _exit(error)


def exit_with_traceback() -> NoReturn:
    """For unexpected errors; call it in an `except` block.

    Python's own exit waits for the rank's children, forever if they ignore its SIGTERM, as Megatron's data loader
    workers do (`--exit-signal-handler`); all other ranks would then wait for this one.
    """
    traceback.print_exc()
    _kill_children()
    _tell_torchrun(traceback.format_exc().splitlines()[-1])
    sys.stdout.flush()
    os._exit(1)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def _exit(error: SrpError) -> NoReturn:
    where = f" (rank {rank()})" if rank() else ""
    print(f"error{where}: {error}", file=sys.stderr, flush=True)
    _tell_torchrun(f"error: {error}")
    # Not sys.exit(): there is nothing to clean up, and torch's threads must not delay the exit.
    os._exit(error.exit_code)


def _tell_torchrun(message: str) -> None:
    # torchrun ends with a long report: put the cause at its end, where it is seen.
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
