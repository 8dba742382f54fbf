"""`srp check cluster`: whether several nodes could train together."""

import argparse

from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.training.flags.presets import PRESETS

DESCRIPTION = """
Check the nodes of a run before it starts: names, interfaces and ports, equal versions and clocks, a folder that all
nodes share, its free space, and a first all-reduce with its bandwidth (NCCL on GPUs, else gloo). Start it on each node,
like the training itself:

  srp check cluster --nnodes 2 --node-rank 0 --master-addr node0 --out out/run --preset 1p7b

Without these flags it reads NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, and in a Slurm job Slurm's own variables:
`srun --ntasks-per-node 1 srp check cluster`. Each failure is one line that says what to set, and the exit code is then
not 0.
"""


def build_parser() -> argparse.ArgumentParser:
    from megatron_srp.training.flags.rank_flags import TORCHRUNS_PORT

    parser = Parser(prog="srp check cluster", description=DESCRIPTION)
    add = parser.add_argument
    add("--nproc-per-node", type=int, metavar="N", help="ranks to start here (default: one per GPU, or 1)")
    add("--nnodes", type=int, metavar="N", help="nodes of the run (default: as above, else 1)")
    add("--node-rank", type=int, metavar="I", help="this node's number, 0 to N-1 (default: as above, else 0)")
    add("--master-addr", metavar="HOST", help="node 0's host name (default: as above)")
    add("--master-port", type=int, metavar="PORT", help=f"its port (default: as above, else {TORCHRUNS_PORT})")
    add("--out", metavar="DIR", help="the run's folder, which all nodes must share (default: not checked)")
    add(
        "--preset",
        metavar="NAME",
        help=f"with --out: the model whose checkpoints must fit: {', '.join(PRESETS)} (default: none)",
    )
    add(
        "--checkpoints",
        type=int,
        default=3,
        metavar="N",
        help="with --preset: checkpoints that must fit, two to keep and one being written",
    )
    add("--timeout", type=int, default=300, metavar="S", help="seconds to wait for the other nodes")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, start the ranks of this node, wait. Returns the exit code."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--nproc-per-node", "--checkpoints", "--timeout")
    rank_flags = _rank_flags(args)

    from megatron_srp.training.launch import start
    from megatron_srp.training.preflight.nodes_of_slurm import find_ranks

    ranks = find_ranks(args)
    wait = ["--rdzv-conf", f"timeout={args.timeout}"] if ranks.nodes > 1 else []
    code = start(ranks, [*wait, "-m", "megatron_srp.training.preflight.ranks", *rank_flags])
    if code == 0 and ranks.node_rank == 0:
        next_step("srp train, with the same flags for the nodes")
    return code


def _rank_flags(args: argparse.Namespace) -> list[str]:
    flags = []
    if args.preset is not None:
        if args.preset not in PRESETS:
            raise UsageError(f"--preset: unknown preset {args.preset!r}; {did_you_mean(args.preset, list(PRESETS))}")
        if args.out is None:
            raise UsageError("--preset needs --out DIR, on whose disk the checkpoints must fit")
        flags += ["--preset", args.preset, "--checkpoints", str(args.checkpoints)]
    if args.out is not None:
        if "://" in args.out:
            raise UsageError(f"--out {args.out}: pass a folder on a file system that all nodes mount")
        flags += ["--out", args.out]
    return flags
