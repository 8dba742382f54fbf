"""One corpus on many machines: which pieces of the input each of N partitions takes, and how its shards are named.
Annotation, hints and preprocessing share the rule, so that one index of an array job serves them all.

The rule: a piece is a file, or a part of one that is larger than an even share (`file_parts.py`). Pieces stay in the
order of the input, and each partition takes a contiguous range of them. In turn, each partition takes its first piece,
and further ones as long as that brings its bytes closer to an even share of what is left, leaving a piece for every
partition after it. So the partitions joined in order equal the single run, and a partition has no pieces only where
there are more partitions than pieces.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError

_NAME = re.compile(r"(?P<base>.+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")

_ABOUT = """
Partition I of N takes a contiguous range of the input, about as large as the others', and writes shards,
journal and manifest of its own, as PREFIX-0000I-of-0000N. A large file is divided too: uncompressed JSONL by
lines, Parquet by row groups. The split depends only on the order and the sizes of the files. `srp merge` joins
the partitions, and the result is the single run's. With more partitions than pieces the last ones have
nothing; they do nothing and exit with 0. A finished partition is
skipped: an array job can be resubmitted until all of its tasks have succeeded.
"""


def split_by_size(sizes: Sequence[int], count: int) -> list[range]:
    """For each of `count` partitions the pieces it takes, by the module's rule; sizes in bytes."""
    parts, begin, rest = [], 0, sum(sizes)
    for left in range(count, 0, -1):
        last = min(max(len(sizes) - left + 1, begin + 1), len(sizes))
        end, taken = begin, 0
        # In whole numbers, so that every machine rounds alike: taken + half the piece <= rest / left.
        while end < last and (end == begin or (2 * taken + sizes[end]) * left <= 2 * rest):
            taken += sizes[end]
            end += 1
        parts.append(range(begin, end))
        begin, rest = end, rest - taken
    return parts


@dataclass(frozen=True, slots=True)
class Partition:
    """Partition `index` of `count`; by default, the only one.

    Raises:
        UsageError: for a count or an index out of range.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.count < 100_000:
            raise UsageError(f"--num-partitions {self.count}: pass a number from 1 to 99999")
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"--partition-index {self.index}: partitions are counted from 0; pass 0 to {self.count - 1}"
            )

    def prefix(self, base: str | Path) -> str:
        """The output prefix of this partition of `base`, e.g. `corpus-00003-of-00016`."""
        return partition_name(base, self.index, self.count)

    def settings(self, pieces: int) -> dict[str, Any]:
        """Its record in the manifest of a job with that many `pieces`; `merge` finds by it which belong together."""
        return {"partition": {"index": self.index, "count": self.count, "used": min(self.count, pieces)}}


def partition_name(base: str | Path, index: int, count: int) -> str:
    return f"{base}-{index:05}-of-{count:05}"


def parse_name(prefix: str | Path) -> tuple[str, int, int] | None:
    """Base, index and count of the output prefix of a partition; None for any other prefix."""
    match = _NAME.fullmatch(str(prefix))
    return (match["base"], int(match["index"]), int(match["count"])) if match else None


def add_partition_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("many machines", _ABOUT).add_argument
    add(
        "--num-partitions",
        type=int,
        metavar="N",
        help="divide the input among N runs (default: one run does all)",
    )
    add("--partition-index", type=int, metavar="I", help="index of this run's partition, 0 to N-1 (no default)")
    add(
        "--executor",
        choices=["local", "ray"],
        default="local",
        help="local: this process makes one partition, or everything; ray: a Ray cluster makes all partitions, "
        "which are joined at the end",
    )
    add(
        "--ray-address",
        metavar="ADDRESS",
        help="of the cluster, HOST:PORT (default: $RAY_ADDRESS, else this machine alone); every machine needs the same "
        "installation and paths, and a cluster with token authentication RAY_AUTH_MODE=token",
    )
    add("--no-merge", action="store_true", help="with --executor ray: leave the partitions as they are (default: off)")


def check_partition_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for flags that do not fit together."""
    count, index = args.num_partitions, args.partition_index
    if count is not None:
        Partition(0, count)
    if args.executor == "ray":
        if count is None:
            raise UsageError("--executor ray: pass --num-partitions N, for example twice the number of machines")
        if index is not None:
            raise UsageError("--executor ray makes all partitions; drop --partition-index")
        return
    if (count is None) != (index is None):
        given = "--num-partitions" if index is None else "--partition-index"
        raise UsageError(f"{given} alone: pass both --num-partitions N and --partition-index I, or --executor ray")
    if index is not None:
        Partition(index, count)
    if args.ray_address or args.no_merge:
        given = "--ray-address" if args.ray_address else "--no-merge"
        raise UsageError(f"{given} is for --executor ray only")
