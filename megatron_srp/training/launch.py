"""torchrun with a short error report: the failed rank's line is the last one on the screen.

    python -m megatron_srp.training.launch [torchrun's flags] -m megatron_srp.training.pretrain [flags]

torchrun itself prints a traceback and a table after it, and exits with 1 whatever its ranks' exit codes.
"""

import logging
import signal
import sys
from collections.abc import Iterable
from typing import Any


def main() -> int:
    """Run torchrun; returns the exit code of the rank that failed first, 128 + N for signal N as shells have it."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # This is how torchrun ends the other ranks: nothing to act on.
    logging.getLogger("torch.distributed.elastic.multiprocessing").setLevel(logging.CRITICAL)
    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        return end_like(find_cause(error.failures.items()))
    except SignalException as error:
        print(f"ended by {error.sigval.name}", file=sys.stderr)
        return 128 + error.sigval
    return 0


def find_cause(failures: Iterable[tuple[int, Any]]) -> tuple[int, int]:
    """Rank and exit code of the first failure; the ranks that torchrun ended for it come last.

    Args:
        failures: torchrun's, by rank. Their times are whole seconds, so those with one cause are often equal.
    """
    rank, failure = min(failures, key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].timestamp))
    return rank, failure.exitcode


def end_like(failed: tuple[int, int]) -> int:
    """The exit code for a failed rank's code; a rank that was killed could not report it, so this prints the line."""
    rank, code = failed
    if code >= 0:
        return code
    memory = "; has the machine run out of memory?" if code == -signal.SIGKILL else ""
    print(f"error: rank {rank} was ended by {signal.Signals(-code).name}{memory}", file=sys.stderr)
    return 128 - code


if __name__ == "__main__":
    sys.exit(main())
