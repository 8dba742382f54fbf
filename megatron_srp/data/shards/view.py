"""The view: a plain shard and a sidecar, read as the shard with reflections that they define.

    view = ReflectedIndexedDataset("out/corpus_text_document", "out/r100_corpus_text_document.srp")
    view.get(7, offset=4096, length=2049)

Nothing is written: the plain tokens and reflections in the requested part of a sequence are interleaved
when it is read. Where segment k of a sequence begins, in reflected tokens, is the cut before it plus what
the reflections before it add or remove; running sums of these, one for every 256 reflections of the shard,
are kept in memory, and the kernel searches them and then counts on.
"""

from pathlib import Path
from typing import Any, overload

import numpy as np

from megatron_srp.data import _tokens
from megatron_srp.data.reflection_table import HintIds
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.sidecar_copies import copy_of
from megatron_srp.data.shards.streamed_shard import StreamedShard
from megatron_srp.errors import InputError

SUM_EVERY = 256  # as in _tokens.c

type Index = int | np.integer[Any]  # GPTDataset passes NumPy's


def reflected_dtype(dtype: np.dtype, highest: int) -> np.dtype:
    """The type of reflected tokens: the plain ones', or int32 where the reflections' `highest` id does not fit."""
    return dtype if highest <= np.iinfo(dtype).max else np.dtype(np.int32)


class ReflectedIndexedDataset:
    """The interface of IndexedDataset that Megatron's GPTDataset reads, with reflections where the sidecar says.

        >>> from megatron_srp import ReflectedIndexedDataset, load_tokenizer
        >>> view = ReflectedIndexedDataset("plain_text_document", "reflections_plain_text_document.srp")
        >>> load_tokenizer("HuggingFaceTokenizer", "tokenizer").decode(view[0])
        'A quiet morning by the river. <think> Safe </think><|endoftext|>'

    Both files are memory-mapped. Memory: int32[N] and a running sum (8 bytes) for 256 reflections.

    Args:
        path_prefix: of the plain shard.
        sidecar: path of a sidecar that was made for it.
        streamed: reads the plain shard if it is not on this machine.

    Attributes:
        path_prefix: as given.
        sidecar_path: as given; of a sidecar on S3, that of its copy.
        sequence_lengths: int32[N], reflected tokens of each sequence.
        document_indices: int64[D+1], first sequence of each document.
        dtype: of the tokens.
        masks: whether its policy leaves tokens unlearned, which `mask` says of each.
        start_share: the share of training before which the plain shard is read.

    Raises:
        InputError: when the two files do not belong together, or the shard contains its reflections already.
    """

    def __init__(self, path_prefix: str | Path, sidecar: str | Path, streamed: StreamedShard | None = None) -> None:
        self.path_prefix, self.sidecar_path, self._streamed = str(path_prefix), copy_of(sidecar), streamed
        shard, loaded = streamed or IndexedShard(path_prefix), ReflectionSidecar.load(sidecar)
        if loaded.materialized:
            raise InputError(f"{sidecar}: its reflections are in the shard's tokens already; read the shard alone")
        if len(loaded) != len(shard):
            raise InputError(f"{sidecar} has {len(loaded)} sequences, {path_prefix} {len(shard)}: not its sidecar")
        # Indexing a plain array is several times faster than indexing a memmap.
        self._pointers, self._plain_lengths = np.asarray(shard.pointers), np.asarray(shard.lengths)
        self.document_indices = np.asarray(shard.documents)
        self._offsets, self._cuts, self._entries = loaded.offsets, loaded.cuts, loaded.entries
        self._hints = loaded.hints or HintIds(np.empty(0, np.int64), np.empty(0, np.int32))
        self.dtype = reflected_dtype(shard.dtype, loaded.highest_id())
        # A plain shard too narrow for its reflections' ids, or elsewhere, is read through a copy of the requested part.
        self._tokens, self._copied = np.asarray(shard.tokens), bool(streamed) or self.dtype != shard.dtype
        self._size, self._itemsize = self.dtype.itemsize, shard.dtype.itemsize
        ids, self._table_offsets = loaded.table.arrays()
        self._table, self._flags = ids.astype(self.dtype), loaded.table.flags()
        self.masks, self.start_share = loaded.table.masks(), loaded.start_share
        self.sequence_lengths = shard.lengths.astype(np.int32)  # a copy, aligned in memory
        self._sums = np.empty(len(self._entries) // SUM_EVERY + 1, np.int64)
        tables = self._table_offsets, self._flags, self._hints.offsets
        try:
            _tokens.reflected_lengths(
                self._offsets, self._cuts, self._entries, *tables, self.sequence_lengths, self._sums
            )
        except ValueError:
            raise InputError(
                f"{sidecar} or {path_prefix}.idx: damaged, or a sequence would have more than 2**31 tokens"
            ) from None

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    def __reduce__(self) -> Any:
        # A data-loader worker maps the files itself.
        return type(self), (self.path_prefix, self.sidecar_path, self._streamed)

    def get(self, idx: Index, offset: int = 0, length: Index | None = None) -> np.ndarray:
        """`length` reflected tokens of sequence `idx` from `offset` on; by default all that follow.

        Raises:
            IndexError: when the sequence does not have them.
        """
        length = self._length(idx, offset, length)
        first, count = int(self._pointers[idx]) // self._itemsize, int(self._plain_lengths[idx])
        tokens = self._tokens
        row = int(idx) if idx >= 0 else int(idx) + len(self)
        if self._copied:
            plain = self._streamed[row] if self._streamed else tokens[first : first + count]
            tokens, first = plain.astype(self.dtype), 0
        out = np.empty(length, self.dtype)
        try:
            _tokens.read_reflected(
                tokens,
                first,
                count,
                self._cuts,
                self._entries,
                int(self._offsets[row]),
                int(self._offsets[row + 1]),
                self._table,
                self._table_offsets,
                self._flags,
                self._hints.ids,
                self._hints.offsets,
                self._sums,
                int(offset),
                self._size,
                out,
            )
        except ValueError:
            raise self._misfit(row) from None
        return out

    def mask(self, idx: Index, offset: int = 0, length: Index | None = None) -> np.ndarray:
        """uint8: for each token that `get` returns for the same arguments, 1 if it is learned, else 0."""
        mask = np.empty(self._length(idx, offset, length), np.uint8)
        row = int(idx) if idx >= 0 else int(idx) + len(self)
        try:
            _tokens.read_mask(
                int(self._plain_lengths[idx]),
                self._cuts,
                self._entries,
                int(self._offsets[row]),
                int(self._offsets[row + 1]),
                self._table_offsets,
                self._flags,
                self._hints.offsets,
                self._sums,
                int(offset),
                mask,
            )
        except ValueError:
            raise self._misfit(row) from None
        return mask

    def _length(self, idx: Index, offset: int, length: Index | None) -> int:
        """How many tokens are asked for; raises IndexError when the sequence does not have them."""
        whole = int(self.sequence_lengths[idx])
        length = whole - offset if length is None else int(length)
        if not (offset >= 0 and 0 <= length <= whole - offset):
            raise IndexError(f"tokens {offset} to {offset + length} of sequence {idx}, which has {whole}")
        return length

    def _misfit(self, row: int) -> InputError:
        return InputError(f"{self.sidecar_path}: its cuts in sequence {row} do not fit {self.path_prefix}; damaged?")

    @overload
    def __getitem__(self, idx: Index) -> np.ndarray: ...

    @overload
    def __getitem__(self, idx: slice) -> list[np.ndarray]: ...

    def __getitem__(self, idx: Index | slice) -> np.ndarray | list[np.ndarray]:
        """The sequence `idx`, or a list of those in a slice of step 1."""
        if isinstance(idx, slice):
            start, stop, step = idx.indices(len(self))
            if step != 1:
                raise ValueError("Slices into a dataset must be contiguous")
            return [self.get(i) for i in range(start, stop)]
        return self.get(idx)
