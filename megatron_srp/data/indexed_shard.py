"""Megatron's indexed dataset on disk: PREFIX.bin (tokens) and PREFIX.idx (where each sequence lies).

Written and read here without torch, whose import takes longer than preparing a small corpus; the
tests hold the files against those of `megatron.core.datasets.indexed_dataset`.

PREFIX.idx, little-endian: 9 bytes magic, u64 version 1, u8 type code, u64 number of sequences N, u64
number of document boundaries D+1, int32[N] lengths in tokens, int64[N] byte offsets into PREFIX.bin,
int64[D+1] first sequence of each document and N.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron_srp.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
TYPE_CODES = {np.dtype(t): code for t, code in ((np.int32, 4), (np.uint16, 8))}
_BLOCK = 1 << 20  # sequences at a time


def token_dtype(vocab_size: int) -> np.dtype:
    """The type Megatron chooses for ids of this vocabulary: uint16 below 65,500, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


def bin_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.idx")


def write_index(file: BinaryIO, lengths: np.ndarray, dtype: np.dtype) -> None:
    """Write the .idx of documents that are one sequence each.

    Args:
        lengths: int32[N], tokens in each; may be memory-mapped, it is read in blocks.
        dtype: of the tokens, uint16 or int32.
    """
    n = len(lengths)
    file.write(HEADER.pack(MAGIC, 1, TYPE_CODES[dtype], n, n + 1))
    for i in range(0, n, _BLOCK):
        file.write(np.ascontiguousarray(lengths[i : i + _BLOCK], np.int32).data)
    offset = 0
    for i in range(0, n, _BLOCK):
        ends = offset + np.cumsum(lengths[i : i + _BLOCK], dtype=np.int64) * dtype.itemsize
        file.write(np.concatenate([[offset], ends[:-1]]).astype(np.int64).data)
        offset = int(ends[-1])
    for i in range(0, n + 1, _BLOCK):
        file.write(np.arange(i, min(i + _BLOCK, n + 1), dtype=np.int64).data)


def write_all(file: BinaryIO, data: memoryview) -> None:
    """Write `data` to an unbuffered file, which may take only a part of what it is given."""
    rest = data.cast("B") if data.nbytes else memoryview(b"")
    while len(rest):
        rest = rest[file.write(rest) :]


class IndexedShard:
    """A shard read by memory map.

    Attributes:
        dtype: of the tokens.
        lengths: int32[N] tokens of each sequence.
        pointers: int64[N] byte offsets into the .bin.
        documents: int64[D+1] first sequence of each document.
        tokens: all tokens of the .bin, flat.

    Raises:
        InputError: when a file is missing or its header and size do not fit together.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        for path in (bin_path(prefix), idx_path(prefix)):
            if not path.is_file():
                raise InputError(f"{path}: no such file; a shard is PREFIX.bin and PREFIX.idx, give the PREFIX")
        index = np.memmap(idx_path(prefix), np.uint8, "r") if idx_path(prefix).stat().st_size else np.empty(0, np.uint8)
        self.dtype, n, boundaries = self._header(index)
        at = HEADER.size
        self.lengths = index[at : at + 4 * n].view(np.int32)
        self.pointers = index[at + 4 * n : at + 12 * n].view(np.int64)
        self.documents = index[at + 12 * n : at + 12 * n + 8 * boundaries].view(np.int64)
        size = bin_path(prefix).stat().st_size
        if size % self.dtype.itemsize:
            raise InputError(
                f"{bin_path(prefix)}: {size} bytes are not a whole number of {self.dtype} tokens; truncated?"
            )
        self.tokens = np.memmap(bin_path(prefix), self.dtype, "r") if size else np.empty(0, self.dtype)

    def _header(self, index: np.ndarray) -> tuple[np.dtype, int, int]:
        path = idx_path(self.prefix)
        if len(index) < HEADER.size or index[:9].tobytes() != MAGIC:
            raise InputError(f"{path}: not a Megatron index (its first 9 bytes are not MMIDIDX)")
        _, version, code, n, boundaries = HEADER.unpack(index[: HEADER.size].tobytes())
        types = {code: dtype for dtype, code in TYPE_CODES.items()}
        if version != 1 or code not in types:
            raise InputError(
                f"{path}: version {version}, type code {code}; allowed are version 1, codes {sorted(types)}"
            )
        expected = HEADER.size + 12 * n + 8 * boundaries
        if len(index) != expected:
            raise InputError(f"{path}: {len(index)} bytes, but its header promises {expected}; truncated or damaged")
        return types[code], n, boundaries

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        begin = int(self.pointers[i]) // self.dtype.itemsize
        return self.tokens[begin : begin + int(self.lengths[i])]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))
