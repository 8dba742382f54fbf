"""Turn errors that Megatron and torch raise during a run into one line that says what to do."""

import errno
import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.training.process.exits import AnotherRankEnded, ThisRankFailed

# In gloo's and NCCL's words; after a node is lost, nothing closes the connection.
_CONNECTION_LOST = re.compile(r"Connection (closed|reset) by peer|Broken pipe|remote process exited|Timed out waiting")
_WORKER_KILLED = re.compile(r"DataLoader worker \(pid.* (is killed by signal: \w+|exited unexpectedly)")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
_RESUME = "rerun the command to resume from the last complete checkpoint"
# What Megatron puts before the reason.
_WORKER_FAILURE = re.compile(r"Worker failure: (An error is caught while starting worker \d+, error: )?")


def explain_load_errors(load_checkpoint: Callable[..., Any], folder: Callable[[], str]) -> Callable[..., Any]:
    """Megatron's `load_checkpoint`, but with one line for a checkpoint that does not fit or is damaged.

    Megatron prints a traceback on each rank, or exits with 0.

    Args:
        folder: returns the value of `--load`.
    """

    def load(*args: Any, **kwargs: Any) -> Any:
        try:
            return load_checkpoint(*args, **kwargs)
        # torch's error is a BaseException that holds the tracebacks of all ranks.
        except (Exception, CheckpointException, SystemExit) as error:
            reason = "see the error above" if isinstance(error, SystemExit) else _reason(error)
            advice = "pass the model and layout flags of the run that wrote it"
            if "OptimizerParamScheduler" in reason:
                advice = "keep the schedule's flags, or use the new ones with --override-opt-param-scheduler"
            elif "_extra_state" in reason:  # FP8 scales, of Transformer Engine's layers
                advice = (
                    "it was written without Transformer Engine, so it lacks the state of its layers: add "
                    "--dist-ckpt-strictness log_unexpected"
                )
            elif isinstance(error, CheckpointException):
                advice += ", or an earlier --ckpt-step if it is damaged"
            raise UsageError(f"--load {folder()}: Megatron cannot load it: {reason}; {advice}") from error

    return load


@contextmanager
def explained(save: str | None) -> Iterator[None]:
    """Around the training: an error that is not a bug becomes one line.

    Args:
        save: the value of `--save`.

    Raises:
        OutputError: when a checkpoint cannot be written.
        ThisRankFailed: when this rank cannot write elsewhere, or a process that reads its data or saves is killed.
        AnotherRankEnded: when the connection to another rank is lost.
    """
    try:
        yield
    except CheckpointException as error:
        raise OutputError(
            f"--save {save}: a checkpoint could not be written: {_reason(error)}; remove the cause, then {_RESUME}"
        ) from error
    except (ConnectionError, EOFError) as error:
        if not _of_multiprocessing(error):
            raise
        raise ThisRankFailed(
            f"a process that reads data or saves for this rank was killed; has the machine run out of memory? {_RESUME}"
        ) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f"{error.filename or save}: {error.strerror}"
        raise ThisRankFailed(f"{place}; remove the cause, then {_RESUME}") from error
    except RuntimeError as error:
        if killed := _WORKER_KILLED.search(str(error)):
            raise ThisRankFailed(
                f"a process that reads data {killed[1]}; has the machine run out of memory? {_RESUME}"
            ) from error
        if _CONNECTION_LOST.search(str(error)):
            raise AnotherRankEnded from error
        raise


def _of_multiprocessing(error: BaseException) -> bool:
    """Whether it is an error of the connection to a process that this one has started."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(multiprocessing.__file__).parent)


def _reason(error: BaseException) -> str:
    """The last line of a message without the type of the error; only one rank gets the reason of a failed save."""
    if isinstance(error, CheckpointException) and not error.failures:
        return "see rank 0's error"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _WORKER_FAILURE.sub("", re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]))
