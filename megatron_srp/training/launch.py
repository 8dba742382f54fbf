"""Start a run's ranks with torchrun, such that the failed rank's line is the last one on the screen.

    srp train --nproc-per-node 8 [flags]
    python -m megatron_srp.training.launch [torchrun's flags] -m MODULE [flags]

torchrun itself prints a traceback and a table after it, and exits with 1 whatever its ranks' exit codes.
"""

import logging
import os
import socket
import sys

from megatron_srp.errors import SrpError, UsageError
from megatron_srp.training.checks.addresses import check_addresses
from megatron_srp.training.flags.rank_flags import Ranks
from megatron_srp.training.process.failures import end_like, find_cause

ENTRY_POINT = ("-m", "megatron_srp", "train")


def train_on(ranks: Ranks, flags: list[str]) -> int:
    """Start the ranks of this node and wait for their end; returns the exit code, as `torchrun` does.

    Raises:
        UsageError, InputError: for a mistake in the flags or the shards, before anything starts.
    """
    from megatron_srp.training.plan import plan_run

    plan_run(flags, ranks.total)
    return start(ranks, [*ENTRY_POINT, *flags])


def start(ranks: Ranks, command: list[str]) -> int:
    """Start `command`, as torchrun takes it, on the ranks of this node. Returns the exit code, as `torchrun` does."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UsageError("--nproc-per-node: torchrun has started this process as a rank; leave the flag out")
    check_addresses(ranks)
    if ranks.per_node > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's choice, which it would explain in three lines
    return torchrun([*ranks.to_torchrun(), *command])


def torchrun(argv: list[str]) -> int:
    """Run torchrun; returns the exit code of the rank that failed first, 128 + N for signal N as shells have it."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from megatron_srp.training.process.agent import watch_other_nodes
    from megatron_srp.training.process.temporary import own_temporary_folder

    # This is how torchrun ends the other ranks: nothing to act on.
    for part in ("multiprocessing", "agent.server.api"):
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)
    watch_other_nodes()
    try:
        with own_temporary_folder():
            run(parse_args(argv))
    except ChildFailedError as error:
        return end_like(find_cause(error.failures.items()))
    except SrpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SignalException as error:
        print(f"ended by {error.sigval.name} on {socket.gethostname()}", file=sys.stderr)
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(torchrun(sys.argv[1:]))
