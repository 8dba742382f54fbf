"""This node's place in a job, from flags first, then from the variables of the training scripts and of Slurm."""

import argparse
import os
import subprocess

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.rank_flags import TORCHRUNS_PORT, Ranks


def find_ranks(args: argparse.Namespace) -> Ranks:
    """The ranks of `args`, which has the flags of `add_rank_flags`.

    Raises:
        UsageError: for numbers that cannot be, and where several nodes have no address of node 0.
    """
    nodes = _number(args.nnodes, 1, "NNODES", "SLURM_NNODES")
    return Ranks(
        per_node=args.nproc_per_node or _gpus_here(),
        nodes=nodes,
        node_rank=_number(args.node_rank, 0, "NODE_RANK", "SLURM_NODEID"),
        master_addr=args.master_addr or os.environ.get("MASTER_ADDR") or (_first_host() if nodes > 1 else None),
        master_port=_number(args.master_port, TORCHRUNS_PORT, "MASTER_PORT"),
    )


def _number(given: int | None, default: int, *variables: str) -> int:
    if given is not None:
        return given
    for name in variables:
        value = os.environ.get(name)
        if value:
            if not value.isdecimal():
                raise UsageError(f"{name}={value}: must be a whole number")
            return int(value)
    return default


def _first_host() -> str | None:
    hosts = os.environ.get("SLURM_JOB_NODELIST")
    if not hosts:
        return None
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # in a container, say
        return None
    return shown.stdout.partition("\n")[0]


def _gpus_here() -> int:
    import torch

    return max(1, torch.cuda.device_count())
