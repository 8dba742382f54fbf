"""Large input files in pieces, so that one file can be divided among partitions.

Lines of a JSONL file on this machine's disk are divided by byte ranges: a line belongs to the range that its first byte
is in. A Parquet file is divided by its row groups. Compressed lines stay whole, and so do small files, and JSONL on the
hub or S3: to count the rows before a range, all of it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.corpus.compression import is_compressed
from megatron_srp.corpus.partitions import split_by_size
from megatron_srp.corpus.readers import is_parquet, parquet_source
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

LEAST_BYTES = 8 << 20  # of a piece
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a file: bytes [begin, end) of JSONL, or row groups [begin, end) of Parquet; a whole file is one piece.

    Attributes:
        number: of the file in the list of all.
        size: in bytes.
        of: the file's last `end`.
    """

    number: int
    begin: int
    end: int
    size: int
    of: int

    def joined(self, following: "Piece") -> "Piece":
        """This piece and the next one of the same file, as one."""
        return Piece(self.number, self.begin, following.end, self.size + following.size, self.of)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Rows [start, stop) of an input file; to its end where `stop` is None.

    Attributes:
        number: of the file in the list of all.
        offset: bytes of the file before the rows, of Parquet about.
        size: bytes of the rows.
    """

    number: int
    start: int
    stop: int | None
    offset: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.stop is None

    def contains(self, row: int) -> bool:
        return row >= self.start and (self.stop is None or row < self.stop)


def cut_files(files: Sequence[InputFile], count: int) -> list[Piece]:
    """All files in pieces, none much larger than one of `count` even shares, in the order of the input."""
    sizes = [file.stat().st_size for file in files]
    return [
        piece
        for number, (file, size) in enumerate(zip(files, sizes, strict=True))
        for piece in _cut(number, file, size, min(-(-size * count // max(sum(sizes), 1)), size // LEAST_BYTES))
    ]


def _cut(number: int, file: InputFile, size: int, count: int) -> list[Piece]:
    whole = [Piece(number, 0, size, size, size)]
    if count < 2:
        return whole
    if is_parquet(file):
        return _cut_groups(number, file, count) or whole
    if not isinstance(file, Path) or is_compressed(file):
        return whole
    cuts = [size * i // count for i in range(count + 1)]
    return [Piece(number, begin, end, end - begin, size) for begin, end in pairwise(cuts)]


def _cut_groups(number: int, file: InputFile, count: int) -> list[Piece]:
    sizes = _group_sizes(file)
    ranges = [found for found in split_by_size(sizes, count) if found]
    return [Piece(number, one.start, one.stop, sum(sizes[i] for i in one), len(sizes)) for one in ranges]


def _group_sizes(file: InputFile) -> list[int]:
    """Compressed bytes of each row group."""
    metadata = _metadata(file)
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return [sum(group.column(i).total_compressed_size for i in range(group.num_columns)) for group in groups]


def _metadata(file: InputFile) -> pq.FileMetaData:
    try:
        return pq.ParquetFile(parquet_source(file)).metadata
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error})") from None


def join_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """Consecutive pieces of a file as one."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].number == piece.number:
            joined[-1] = joined[-1].joined(piece)
        else:
            joined.append(piece)
    return joined


def find_rows(piece: Piece, file: InputFile) -> FilePart:
    """The rows of a piece; of JSONL all lines before its end are counted.

    Raises:
        InputError: for a file that cannot be read.
    """
    if (piece.begin, piece.end) == (0, piece.of):
        return FilePart(piece.number, 0, None, 0, piece.size)
    find = _rows_of_groups if is_parquet(file) else _rows_of_bytes
    offset, start, stop = find(piece, file)
    return FilePart(piece.number, start, None if piece.end == piece.of else stop, offset, piece.size)


def _rows_of_groups(piece: Piece, file: InputFile) -> tuple[int, int, int]:
    metadata = _metadata(file)
    rows = [metadata.row_group(i).num_rows for i in range(piece.end)]
    return sum(_group_sizes(file)[: piece.begin]), sum(rows[: piece.begin]), sum(rows)


def _rows_of_bytes(piece: Piece, file: InputFile) -> tuple[int, int, int]:
    with file.open("rb") as stream:
        before = _lines_that_begin_in(stream, 0, piece.begin)
        return piece.begin, before, before + _lines_that_begin_in(stream, piece.begin, piece.end)


def _lines_that_begin_in(stream: BinaryIO, begin: int, end: int) -> int:
    """A line begins at the file's first byte and after each line feed."""
    first = begin == 0 and end > 0
    position, count = max(begin - 1, 0), int(first)
    stream.seek(position)
    while position < end - 1:
        block = stream.read(min(_BLOCK, end - 1 - position))
        if not block:
            break
        count += block.count(b"\n")
        position += len(block)
    return count
