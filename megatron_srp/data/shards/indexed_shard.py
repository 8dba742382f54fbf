"""Megatron's indexed dataset on disk: PREFIX.bin (tokens) and PREFIX.idx (where each sequence is).

Written and read here without torch, whose import takes longer than preparing a small corpus; the
tests compare the files with those of `megatron.core.datasets.indexed_dataset`.

PREFIX.idx, little-endian: 9 bytes magic, u64 version 1, u8 type code, u64 number of sequences N, u64
number of document boundaries D+1, int32[N] lengths in tokens, int64[N] byte offsets into PREFIX.bin,
int64[D+1] first sequence of each document and N.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron_srp.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
_TYPES = ((np.uint8, 1), (np.int8, 2), (np.int16, 3), (np.int32, 4), (np.int64, 5), (np.uint16, 8))
TYPE_CODES = {np.dtype(t): code for t, code in _TYPES}  # type codes of those that can be token ids
_BLOCK = 1 << 20  # sequences at a time
_BLOCK_TOKENS = 1 << 22


def token_dtype(vocab_size: int) -> np.dtype:
    """The type Megatron chooses for ids of this vocabulary: uint16 below 65,500, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


def bin_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.idx")


def write_index(file: BinaryIO, lengths: np.ndarray, dtype: np.dtype, documents: np.ndarray | None = None) -> None:
    """Write an .idx; arrays may be memory-mapped, they are read in blocks.

    Args:
        lengths: int32[N], tokens in each sequence.
        dtype: of the tokens, uint16 or int32.
        documents: int64[D+1], first sequence of each document; by default each sequence is one.
    """
    n = len(lengths)
    boundaries = n + 1 if documents is None else len(documents)
    file.write(HEADER.pack(MAGIC, 1, TYPE_CODES[dtype], n, boundaries))
    for i in range(0, n, _BLOCK):
        file.write(np.ascontiguousarray(lengths[i : i + _BLOCK], np.int32).data)
    offset = 0
    for i in range(0, n, _BLOCK):
        ends = offset + np.cumsum(lengths[i : i + _BLOCK], dtype=np.int64) * dtype.itemsize
        file.write(np.concatenate([[offset], ends[:-1]]).astype(np.int64).data)
        offset = int(ends[-1])
    for i in range(0, boundaries, _BLOCK):
        end = min(i + _BLOCK, boundaries)
        block = np.arange(i, end) if documents is None else documents[i:end]
        file.write(np.ascontiguousarray(block, np.int64).data)


def write_all(file: BinaryIO, data: memoryview) -> None:
    """Write all of `data` to an unbuffered file, whose `write` may write only a part."""
    rest = data.cast("B") if data.nbytes else memoryview(b"")
    while len(rest):
        rest = rest[file.write(rest) :]


def sequence_blocks(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges [begin, end) of sequences of about four million tokens each; a longer sequence has a range of its own.

    Args:
        lengths: int32[N], none negative; may be memory-mapped, as it is read in blocks.
    """
    for first in range(0, len(lengths), _BLOCK):
        ends = np.cumsum(lengths[first : first + _BLOCK], dtype=np.int64)
        begin = 0
        while begin < len(ends):
            reached = ends[begin] - int(lengths[first + begin]) + _BLOCK_TOKENS
            end = max(int(np.searchsorted(ends, reached, "right")), begin + 1)
            yield first + begin, first + end
            begin = end


@dataclass(frozen=True, slots=True)
class Index:
    """The content of an .idx, memory-mapped.

    Attributes:
        dtype: of the tokens.
        lengths: int32[N] tokens of each sequence.
        pointers: int64[N] byte offsets into the .bin.
        documents: int64[D+1] first sequence of each document.
    """

    dtype: np.dtype
    lengths: np.ndarray
    pointers: np.ndarray
    documents: np.ndarray


def read_index(path: Path) -> Index:
    """Map an .idx; raises InputError when its header and size do not fit together."""
    index = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    if len(index) < HEADER.size or index[:9].tobytes() != MAGIC:
        raise InputError(f"{path}: not a Megatron index (its first 9 bytes are not MMIDIDX)")
    _, version, code, n, boundaries = HEADER.unpack(index[: HEADER.size].tobytes())
    types = {code: dtype for dtype, code in TYPE_CODES.items()}
    if version != 1 or code not in types:
        raise InputError(f"{path}: version {version}, type code {code}; allowed are version 1, codes {sorted(types)}")
    expected = HEADER.size + 12 * n + 8 * boundaries
    if len(index) != expected:
        raise InputError(f"{path}: {len(index)} bytes, but its header promises {expected}; truncated or damaged")
    lengths, pointers, documents = np.split(index[HEADER.size :], [4 * n, 12 * n])
    return Index(types[code], lengths.view(np.int32), pointers.view(np.int64), documents.view(np.int64))


class IndexedShard:
    """A shard read by memory map.

    Attributes:
        dtype, lengths, pointers, documents: as in its `Index`.
        tokens: all tokens of the .bin, flat.

    Raises:
        InputError: when a file is missing or its header and size do not fit together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        for path in (bin_path(prefix), idx_path(prefix)):
            if not path.is_file():
                raise InputError(f"{path}: no such file; a shard is PREFIX.bin and PREFIX.idx, pass the PREFIX")
        index = read_index(idx_path(prefix))
        self.dtype, self.lengths = index.dtype, index.lengths
        self.pointers, self.documents = index.pointers, index.documents
        size = bin_path(prefix).stat().st_size
        if size % self.dtype.itemsize:
            raise InputError(
                f"{bin_path(prefix)}: {size} bytes are not a whole number of {self.dtype} tokens; truncated?"
            )
        self.tokens = np.memmap(bin_path(prefix), self.dtype, "r") if size else np.empty(0, self.dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        begin, odd = divmod(int(self.pointers[i]), self.dtype.itemsize)
        end = begin + int(self.lengths[i])
        if odd or not 0 <= begin <= end <= len(self.tokens):
            raise InputError(
                f"{idx_path(self.prefix)}: sequence {i} is damaged: {self.lengths[i]} tokens at byte "
                f"{self.pointers[i]} of {self.tokens.nbytes}"
            )
        return self.tokens[begin:end]

    def run(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, flat, and lengths int64 of sequences begin..end, which must be back to back.

        Raises:
            InputError: when they are not, or not all of them are in the .bin.
        """
        lengths = self.lengths[begin:end].astype(np.int64)
        size, ends = self.dtype.itemsize, np.cumsum(lengths)
        first = int(self.pointers[begin])
        fits = first % size == 0 and 0 <= first <= first + int(ends[-1]) * size <= self.tokens.nbytes
        starts = first + (ends - lengths) * size
        if not fits or (lengths < 0).any() or not np.array_equal(self.pointers[begin:end], starts):
            raise InputError(f"{idx_path(self.prefix)}: sequences {begin} to {end - 1} are damaged; see `srp verify`")
        return self.tokens[first // size : first // size + int(ends[-1])], lengths

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))
