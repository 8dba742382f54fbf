"""The input files of a job, and which of them, or which of their rows, are this run's."""

import argparse
from dataclasses import dataclass
from functools import cached_property

from megatron_srp.corpus.file_parts import FilePart, Piece, cut_files, find_rows, join_pieces
from megatron_srp.corpus.partitions import Partition, split_by_size
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.remote.remote_file import InputFile


@dataclass(frozen=True)
class InputFiles:
    """The input files of a job.

    Attributes:
        all: in the order of the input, the same in all runs of the job.
        partition: whose part of them is this run's; None where one run does all.
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

    @cached_property
    def pieces(self) -> list[Piece]:
        """All files, the large ones in pieces; the same in all runs of the job."""
        return cut_files(self.all, self.partition.count if self.partition else 1)

    @cached_property
    def own_pieces(self) -> list[Piece]:
        """This run's, those of one file joined."""
        if self.partition is None:
            return join_pieces(self.pieces)
        own = split_by_size([piece.size for piece in self.pieces], self.partition.count)[self.partition.index]
        return join_pieces([self.pieces[i] for i in own])

    @cached_property
    def own_parts(self) -> list[FilePart]:
        """The rows of this run's pieces."""
        return [find_rows(piece, self.all[piece.number]) for piece in self.own_pieces]

    @property
    def own(self) -> list[InputFile]:
        """Files of which rows are this run's."""
        return [self.all[piece.number] for piece in self.own_pieces]

    @property
    def own_size(self) -> int:
        """Bytes of this run's pieces."""
        return sum(piece.size for piece in self.own_pieces)
