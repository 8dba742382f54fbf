"""reflected = interleave(tokens, cuts, reflections): the one operation the whole data plane rests on.

The builder writes its result, the view computes it when a sample is read, and `strip` inverts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron_srp import _kernels
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization import TokenBatch

MAX_ENTRIES = 1 << 16  # a table index is a uint16


@dataclass(frozen=True, slots=True)
class Entry:
    """One distinct reflection: its label as written, whether end-of-text follows, and its R token ids."""

    label: SafetyLabel
    stop: bool
    ids: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        label = self.label
        return {
            "verdict": label.verdict,
            "categories": [*label.categories],
            "stop": self.stop,
            "ids": [*self.ids],
        }

    @classmethod
    def from_json(cls, entry: dict) -> "Entry":
        label = SafetyLabel(Verdict(entry["verdict"]), tuple(entry["categories"]))
        return cls(label, entry["stop"], tuple(entry["ids"]))


@dataclass(slots=True)
class ReflectionTable:
    """The distinct reflections of a shard, numbered in the order in which they first appear."""

    entries: list[Entry] = field(default_factory=list)
    _index: dict[tuple[SafetyLabel, bool], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {(entry.label, entry.stop): i for i, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> int:
        """The entry's number, a new one if there is none like it."""
        key = (entry.label, entry.stop)
        if key not in self._index:
            if len(self.entries) == MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} distinct reflections in one shard")
            self._index[key] = len(self.entries)
            self.entries.append(entry)
        return self._index[key]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids int32[R] one behind the other, and offsets int64[L+1]."""
        offsets = np.zeros(len(self.entries) + 1, np.int64)
        np.cumsum([len(entry.ids) for entry in self.entries], out=offsets[1:])
        return np.array([i for entry in self.entries for i in entry.ids], np.int32), offsets


def interleave_document(
    tokens: Sequence[int], cuts: Sequence[int], reflections: Sequence[Sequence[int]], eod: int | None = None
) -> list[int]:
    """The definition: `reflections[k]` inserted before `tokens[cuts[k]]`, and `eod` behind it all."""
    out: list[int] = []
    begin = 0
    for cut, reflection in zip(cuts, reflections, strict=True):
        out += [*tokens[begin:cut], *reflection]
        begin = cut
    return [*out, *tokens[begin:], *([] if eod is None else [eod])]


def interleave_batch(
    tokens: TokenBatch,
    cuts: np.ndarray,
    ids: np.ndarray,
    segment_offsets: np.ndarray,
    table: ReflectionTable,
    eod: int | None,
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """`interleave_document` of N documents.

    Args:
        tokens: N documents, uint16 or uint32.
        cuts: int32[S], ascending within each document.
        ids: uint16[S], numbers of table entries.
        segment_offsets: int64[N+1], which cuts belong to which document.
        table: the reflections.
        eod: appended to each document unless None.
        dtype: of the result, uint16 or int32.

    Returns:
        The documents' tokens, one behind the other, and their lengths int32[N].

    Raises:
        ValueError: when the arrays do not fit together.
    """
    flat, offsets = table.arrays()
    added = np.diff(offsets)[ids].sum(dtype=np.int64) if len(ids) else 0
    out = np.empty(int(tokens.offsets[-1] + added) + len(tokens) * (eod is not None), dtype)
    lengths = np.empty(len(tokens), np.int32)
    eod_id = -1 if eod is None else eod
    _kernels.interleave(
        tokens.tokens,
        tokens.offsets,
        cuts,
        ids,
        segment_offsets,
        flat,
        offsets,
        eod_id,
        out.dtype.itemsize,
        out,
        lengths,
    )
    return out, lengths


def strip_document(tokens: np.ndarray, cuts: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """The inverse: `tokens` without the reflections of `sizes[k]` tokens that were inserted at `cuts[k]`."""
    keep = np.ones(len(tokens), bool)
    shift = 0
    for cut, size in zip(cuts, sizes, strict=True):
        keep[cut + shift : cut + shift + size] = False
        shift += size
    return tokens[keep]
