"""A shard that is not on this machine, read through Megatron's own reader of object storage."""

from typing import Any

import numpy as np


class StreamedShard:
    """What a view needs of an `IndexedShard`; the tokens of a sequence are fetched when it is read.

    Args:
        reader: Megatron's IndexedDataset of the shard.

    Attributes:
        dtype, lengths, pointers, documents: as of an `IndexedShard`.
        tokens: none.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.dtype = np.dtype(reader.index.dtype)
        self.lengths, self.pointers = reader.index.sequence_lengths, reader.index.sequence_pointers
        self.documents = reader.index.document_indices
        self.tokens = np.empty(0, self.dtype)

    def __reduce__(self) -> Any:
        return type(self), (self._reader,)  # which opens its files again

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        """All tokens of sequence i."""
        tokens: np.ndarray = self._reader.get(i)
        return tokens
