"""The flags with which `srp train` starts a run's ranks itself; all have torchrun's names."""

import argparse
from dataclasses import dataclass

from megatron_srp.errors import CommandParser, UsageError

TORCHRUNS_PORT = 29500


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and this machine's place among the nodes.

    Attributes:
        per_node: processes on each node, one for each GPU.
        node_rank: this node's number, 0 to nodes - 1.
        master_addr: host name of node 0; only several nodes need it.
        master_port: where node 0 listens; one node takes a free port.
    """

    per_node: int
    nodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int = TORCHRUNS_PORT

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise UsageError(f"--nproc-per-node {self.per_node}: pass a number of at least 1")
        if self.nodes < 1:
            raise UsageError(f"--nnodes {self.nodes}: pass a number of at least 1")
        if not 0 <= self.node_rank < self.nodes:
            raise UsageError(f"--node-rank {self.node_rank}: pass 0 to {self.nodes - 1} with --nnodes {self.nodes}")
        if self.nodes > 1 and not self.master_addr:
            raise UsageError(f"--nnodes {self.nodes} needs --master-addr HOST, the name of node 0, on every node")

    @property
    def total(self) -> int:
        """Ranks of the whole run."""
        return self.per_node * self.nodes

    def to_torchrun(self) -> list[str]:
        """torchrun's flags for this node."""
        flags = ["--nproc-per-node", str(self.per_node)]
        if self.nodes == 1:
            return [*flags, "--standalone"]
        flags += ["--nnodes", str(self.nodes), "--node-rank", str(self.node_rank)]
        return [*flags, "--master-addr", str(self.master_addr), "--master-port", str(self.master_port)]


def add_rank_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the group of these flags."""
    add = parser.add_argument_group("ranks (torchrun's flags; under torchrun itself leave them out)").add_argument
    add("--nproc-per-node", type=int, metavar="N", help="ranks to start here, one per GPU (default: this process)")
    add("--nnodes", type=int, metavar="N", help="nodes of the run; start the command on each (default: 1)")
    add("--node-rank", type=int, metavar="I", help="this node's number, 0 to N-1 (default: 0)")
    add("--master-addr", metavar="HOST", help="node 0's host name, for several nodes (default: none)")
    add("--master-port", type=int, metavar="PORT", help=f"its port, for several nodes (default: {TORCHRUNS_PORT})")
    return parser


def split_rank_flags(argv: list[str]) -> tuple[Ranks | None, list[str]]:
    """The ranks that `argv` asks to start, None for this process alone, and the flags without those that say so."""
    parser = add_rank_flags(CommandParser(add_help=False, allow_abbrev=False))
    args, flags = parser.parse_known_args(argv)
    given = {name: value for name, value in vars(args).items() if value is not None}
    if not given:
        return None, flags
    if args.nproc_per_node is None:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"{flag} needs --nproc-per-node N, the ranks to start on each node")
    names = {"nproc_per_node": "per_node", "nnodes": "nodes"}
    return Ranks(**{names.get(name, name): value for name, value in given.items()}), flags
