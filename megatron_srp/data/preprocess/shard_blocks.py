"""Reads an existing shard, a block of sequences at a time."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_srp.data.shards.indexed_shard import IndexedShard, bin_path, idx_path
from megatron_srp.errors import InputError

BLOCK_TOKENS = 1 << 20
_BLOCK_SEQUENCES = 1 << 16


@dataclass(frozen=True, slots=True)
class ShardBlock:
    """N consecutive sequences.

    Attributes:
        shard: index of the shard.
        first: index of the first sequence in it.
        tokens: uint32[T] of all of them.
        ends: int64[N], the token after each sequence.
        documents: int64[D], the token at which each document begins.
    """

    shard: int
    first: int
    tokens: np.ndarray
    ends: np.ndarray
    documents: np.ndarray

    @property
    def end(self) -> int:
        """The first sequence after the block."""
        return self.first + len(self.ends)


def read_blocks(shard: IndexedShard, number: int, vocab_size: int, start: int = 0) -> Iterator[ShardBlock]:
    """Blocks of about BLOCK_TOKENS tokens from sequence `start` on, where a block ended. A document is
    divided only when it is longer than that and has several sequences.

    Raises:
        InputError: when the index is damaged, or a token is not one of the tokenizer's.
    """
    boundaries = np.asarray(shard.documents)  # not aligned in memory: np.searchsorted would copy them all
    damaged = InputError(
        f"{idx_path(shard.prefix)}: its documents are not those of its {len(shard)} sequences; damaged?"
    )
    if not len(boundaries) or boundaries[0] != 0 or boundaries[-1] != len(shard):
        raise damaged
    while start < len(shard):
        lengths = shard.lengths[start : start + _BLOCK_SEQUENCES].astype(np.int64)
        end = start + max(int(np.searchsorted(np.cumsum(lengths), BLOCK_TOKENS, "right")), 1)
        last = bisect_right(boundaries, end) - 1  # the last boundary that is not after `end`
        if boundaries[last] > start:
            end = int(boundaries[last])
        inside = boundaries[bisect_right(boundaries, start) : last + 1]
        inside = inside[inside < end]
        if (np.diff(inside, prepend=start) < 0).any():
            raise damaged
        yield _read(shard, number, vocab_size, start, end, inside - start)
        start = end


def _read(shard: IndexedShard, number: int, vocab_size: int, first: int, end: int, documents: np.ndarray) -> ShardBlock:
    lengths = shard.lengths[first:end].astype(np.int64)
    ends = np.cumsum(lengths)
    begin = int(shard.pointers[first]) // shard.dtype.itemsize
    pointers = (begin + ends - lengths) * shard.dtype.itemsize
    if (lengths < 0).any() or not np.array_equal(pointers, shard.pointers[first:end]):
        raise InputError(f"{idx_path(shard.prefix)}: its sequences are not back to back in the .bin")
    tokens = np.asarray(shard.tokens[begin : begin + int(ends[-1])])
    if begin < 0 or len(tokens) != ends[-1]:
        raise InputError(f"{bin_path(shard.prefix)}: ends before sequence {end - 1}; truncated?")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        bad = int(np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0])
        sequence = first + int(np.searchsorted(ends, bad, "right"))
        raise InputError(
            f"{shard.prefix}, sequence {sequence}: token {tokens[bad]} is not one of the tokenizer's {vocab_size}; "
            "pass the tokenizer that the shard was made with"
        )
    starts = np.concatenate([[0], ends])
    return ShardBlock(number, first, tokens.astype(np.uint32), ends, starts[np.append(0, documents)])
