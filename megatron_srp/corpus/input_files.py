"""The input files of a job, and which of them are this run's."""

import argparse
from dataclasses import dataclass

from megatron_srp.corpus.partitions import Partition
from megatron_srp.corpus.readers import expand_inputs
from megatron_srp.remote.remote_file import InputFile


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The input files of a job.

    Attributes:
        all: in the order of the input, the same in all runs of the job.
        partition: whose files are this run's; None where one run does all.
    """

    all: list[InputFile]
    partition: Partition | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "InputFiles":
        """Those of `--input`, `--num-partitions` and `--partition-index`.

        Raises:
            UsageError: for a pattern without files, or a partition out of range.
        """
        divided = args.num_partitions is not None
        partition = Partition(args.partition_index, args.num_partitions) if divided else None
        return cls(expand_inputs(args.input), partition)

    @property
    def own_numbers(self) -> range:
        """Indices of this run's files in `all`."""
        return self.partition.numbers(self.all) if self.partition else range(len(self.all))

    @property
    def own(self) -> list[InputFile]:
        """This run's files."""
        return [self.all[number] for number in self.own_numbers]
