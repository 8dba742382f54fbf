"""reflected = interleave(tokens, cuts, reflections): the central operation of the data plane.

The builder writes its result, the view computes it when a sample is read, and `strip` inverts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron_srp.corpus.batch import ranges
from megatron_srp.data import _tokens
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.tokenization import TokenBatch

MAX_ENTRIES = 1 << 16  # a table index is a uint16


@dataclass(frozen=True, slots=True)
class Entry:
    """One distinct reflection: its label as written, whether end-of-text follows, and its R token ids.

    A `hinted` entry has no ids: it represents all reflections with a hint, whose ids are in `HintIds`.
    """

    label: SafetyLabel
    stop: bool
    ids: tuple[int, ...]
    hinted: bool = False

    def to_json(self) -> dict[str, object]:
        label = self.label
        return {
            "verdict": label.verdict,
            "categories": [*label.categories],
            "stop": self.stop,
            "ids": [*self.ids],
            **({"hinted": True} if self.hinted else {}),
        }

    @classmethod
    def from_json(cls, entry: dict) -> "Entry":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        label = SafetyLabel(Verdict(entry["verdict"]), tuple(entry["categories"]))
        stop, ids, hinted = entry["stop"], tuple(entry["ids"]), entry.get("hinted", False)
        if not isinstance(stop, bool) or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids):
            raise ValueError(f"{entry} is not a reflection")
        if not isinstance(hinted, bool) or (hinted and (ids or label.verdict is not Verdict.SAFE)):
            raise ValueError(f"{entry} cannot have hints")
        return cls(label, stop, ids, hinted)


HINTED = Entry(SAFE, False, (), hinted=True)


@dataclass(slots=True)
class ReflectionTable:
    """The distinct reflections of a shard, numbered in the order in which they first appear."""

    entries: list[Entry] = field(default_factory=list)
    _index: dict[tuple[SafetyLabel, bool, bool], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {(entry.label, entry.stop, entry.hinted): i for i, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> int:
        """The entry's number; adds the entry if the table lacks it."""
        key = (entry.label, entry.stop, entry.hinted)
        if key not in self._index:
            if len(self.entries) == MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} distinct reflections in one shard")
            self._index[key] = len(self.entries)
            self.entries.append(entry)
        return self._index[key]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids int32[R], concatenated, and offsets int64[L+1]."""
        offsets = np.zeros(len(self.entries) + 1, np.int64)
        np.cumsum([len(entry.ids) for entry in self.entries], out=offsets[1:])
        return np.array([i for entry in self.entries for i in entry.ids], np.int32), offsets

    def hinted(self) -> np.ndarray:
        """bool[L]: which entries represent reflections with a hint."""
        return np.array([entry.hinted for entry in self.entries], bool)


@dataclass(frozen=True, slots=True)
class HintIds:
    """The ids of the reflections with hints; there may be as many as segments, too many for a table.

    Attributes:
        offsets: int64[S+1], which of the ids belong to each of S reflections; an empty range without a hint.
        ids: int32[H].
    """

    offsets: np.ndarray
    ids: np.ndarray

    def __getitem__(self, own: slice) -> "HintIds":
        offsets = self.offsets[own.start : own.stop + 1]
        return HintIds(offsets - offsets[0], self.ids[offsets[0] : offsets[-1]])

    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class Reflections:
    """S reflections in the order of the text: the ids of each are its entry's, then those of its hint.

    Attributes:
        cuts: int32[S], plain tokens of the sequence before each.
        entries: uint16[S], indices into `table`.
        hints: None where the form has none.
    """

    cuts: np.ndarray
    entries: np.ndarray
    table: ReflectionTable
    hints: HintIds | None = None

    def sound(self) -> bool:
        """Whether they are consistent: known entries, no cut below 0, ids of hints where the entry says so."""
        known = not (self.cuts < 0).any() and not (self.entries >= len(self.table)).any()
        return known and not self.with_wrong_hints().any()

    def with_wrong_hints(self) -> np.ndarray:
        """bool[S]: which have ids of a hint though their entry is not `hinted`, or none though it is."""
        hinted = self.table.hinted()[self.entries]
        own = self.hints.sizes() if self.hints else np.zeros(len(hinted), np.int64)
        return (own < 0) | ((own > 0) != hinted)

    def sizes(self) -> np.ndarray:
        """int64[S]: tokens of each; raises IndexError for indices beyond the table."""
        sizes: np.ndarray = (
            np.diff(self.table.arrays()[1])[self.entries] if len(self.entries) else np.empty(0, np.int64)
        )
        return sizes + self.hints.sizes() if self.hints else sizes

    def ids(self) -> np.ndarray:
        """int32[sum of sizes]: their ids, concatenated."""
        flat, offsets = self.table.arrays()
        sizes = np.diff(offsets)[self.entries]
        shared = flat[ranges(offsets[self.entries], sizes)]
        if not self.hints:
            return shared
        own = self.hints.sizes()
        starts = np.cumsum(sizes + own) - (sizes + own)
        ids = np.empty(len(shared) + len(self.hints.ids), np.int32)
        ids[ranges(starts, sizes)] = shared
        ids[ranges(starts + sizes, own)] = self.hints.ids
        return ids


def interleave_document(
    tokens: Sequence[int], cuts: Sequence[int], reflections: Sequence[Sequence[int]], eod: int | None = None
) -> list[int]:
    """The definition: `reflections[k]` inserted before `tokens[cuts[k]]`, and `eod` at the end."""
    out: list[int] = []
    begin = 0
    for cut, reflection in zip(cuts, reflections, strict=True):
        out += [*tokens[begin:cut], *reflection]
        begin = cut
    return [*out, *tokens[begin:], *([] if eod is None else [eod])]


def interleave_batch(
    tokens: TokenBatch,
    cuts: np.ndarray,
    entries: np.ndarray,
    segment_offsets: np.ndarray,
    table: ReflectionTable,
    eod: int | None,
    dtype: np.dtype,
    hints: HintIds | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`interleave_document` for N documents.

    Args:
        tokens: N documents, uint16 or uint32.
        cuts: int32[S], ascending within each document.
        entries: uint16[S], indices into `table`.
        segment_offsets: int64[N+1], which cuts belong to which document.
        table: the reflections.
        eod: appended to each document unless None.
        dtype: of the result, uint16 or int32.
        hints: of the S reflections, where the form has hints.

    Returns:
        The documents' tokens, concatenated, and their lengths int32[N].

    Raises:
        ValueError: when the arrays do not fit together.
    """
    flat, offsets = table.arrays()
    entries = entries.astype(np.int32)
    if hints:  # every reflection is a separate entry
        reflections = Reflections(cuts, entries, table, hints)
        flat, sizes = reflections.ids(), reflections.sizes()
        offsets, entries = np.concatenate([[0], np.cumsum(sizes)]), np.arange(len(entries), dtype=np.int32)
    added = np.diff(offsets)[entries].sum(dtype=np.int64) if len(entries) else 0
    out = np.empty(int(tokens.offsets[-1] + added) + len(tokens) * (eod is not None), dtype)
    lengths = np.empty(len(tokens), np.int32)
    eod_id = -1 if eod is None else eod
    _tokens.interleave(
        tokens.tokens,
        tokens.offsets,
        cuts,
        entries,
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
