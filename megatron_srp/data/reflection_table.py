"""The reflections of a shard: a table of the distinct ones, and for each segment its cut and its entry in the table.

A reflection is what a policy makes of a segment: token ids before it and after it, and whether its own tokens are
kept, dropped, or read without being learned. Segment k is the plain tokens from cut k-1 to cut k.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from megatron_srp.corpus.batch import ranges
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

MAX_ENTRIES = 1 << 16  # a table index is a uint16
DROP, MASK_TEXT, MASK_IDS = 1, 2, 4  # flags of an entry, as in _tokens.c
NO_FLAGS = np.empty(0, np.uint8)

Treatment = Literal["keep", "drop", "mask"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One distinct reflection: its label as written, whether end-of-text follows, and its R token ids.

    A `hinted` entry has no ids: it represents all reflections with a hint, whose ids are in `HintIds`.

    Attributes:
        ids, before: what is written after the segment, and before it.
        text: whether the segment's tokens are kept, dropped, or read and not learned.
        learned: whether `ids` and `before` are learned.
        inside: whether it ends a part of a segment rather than the segment.
    """

    label: SafetyLabel
    stop: bool
    ids: tuple[int, ...]
    hinted: bool = False
    before: tuple[int, ...] = ()
    text: Treatment = "keep"
    learned: bool = True
    inside: bool = False

    @property
    def flags(self) -> int:
        """What the kernels need to know besides the ids."""
        return DROP * (self.text == "drop") | MASK_TEXT * (self.text == "mask") | MASK_IDS * (not self.learned)

    def to_json(self) -> dict[str, object]:
        label = self.label
        return {
            "verdict": label.verdict,
            "categories": [*label.categories],
            "stop": self.stop,
            "ids": [*self.ids],
            **({"hinted": True} if self.hinted else {}),
            **({"before": [*self.before]} if self.before else {}),
            **({"text": self.text} if self.text != "keep" else {}),
            **({"learned": False} if not self.learned else {}),
            **({"inside": True} if self.inside else {}),
        }

    @classmethod
    def from_json(cls, entry: dict) -> "Entry":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        label = SafetyLabel(Verdict(entry["verdict"]), tuple(entry["categories"]))
        before, text = tuple(entry.get("before", ())), entry.get("text", "keep")
        learned, inside = entry.get("learned", True), entry.get("inside", False)
        stop, ids, hinted = entry["stop"], tuple(entry["ids"]), entry.get("hinted", False)
        if not isinstance(stop, bool) or not all(type(i) is int and 0 <= i < 1 << 31 for i in (*before, *ids)):
            raise ValueError(f"{entry} is not a reflection")
        if not isinstance(hinted, bool) or (hinted and (ids or label.verdict is not Verdict.SAFE)):
            raise ValueError(f"{entry} cannot have hints")
        if text not in get_args(Treatment) or not isinstance(learned, bool) or not isinstance(inside, bool):
            raise ValueError(f"{entry} is not what a policy does")
        return cls(label, stop, ids, hinted, before, text, learned, inside)


HINTED = Entry(SAFE, False, (), hinted=True)


@dataclass(slots=True)
class ReflectionTable:
    """The distinct reflections of a shard, numbered in the order in which they first appear."""

    entries: list[Entry] = field(default_factory=list)
    _index: dict[Entry, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {entry: i for i, entry in enumerate(self.entries)}

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Entry) -> int:
        """The entry's number; adds the entry if the table lacks it."""
        if entry not in self._index:
            if len(self.entries) == MAX_ENTRIES:
                raise ValueError(f"more than {MAX_ENTRIES} distinct reflections in one shard")
            self._index[entry] = len(self.entries)
            self.entries.append(entry)
        return self._index[entry]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids int32[R], concatenated, and offsets int64[2L+1]: of each entry those before, then those after."""
        parts = [part for entry in self.entries for part in (entry.before, entry.ids)]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return np.array([i for part in parts for i in part], np.int32), offsets

    def sizes(self) -> np.ndarray:
        """int64[L]: how many ids each entry has."""
        return np.diff(self.arrays()[1][::2])

    def flags(self) -> np.ndarray:
        """uint8[L]: the flags of the entries; empty where all are 0, for which the kernels are faster."""
        flags = np.array([entry.flags for entry in self.entries], np.uint8)
        return flags if flags.any() else NO_FLAGS

    def inside(self) -> np.ndarray:
        """bool[L]: which entries end a part of a segment, not a segment."""
        return np.array([entry.inside for entry in self.entries], bool)

    def drops(self) -> bool:
        """Whether any entry drops its segment's tokens."""
        return any(entry.text == "drop" for entry in self.entries)

    def masks(self) -> bool:
        """Whether anything is read and not learned."""
        return any(entry.flags & ~DROP for entry in self.entries)

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
        """int64[S]: tokens of each, before and after its segment; raises IndexError for indices beyond the table."""
        sizes: np.ndarray = self.table.sizes()[self.entries] if len(self.entries) else np.empty(0, np.int64)
        return sizes + self.hints.sizes() if self.hints else sizes

    def sizes_before(self) -> np.ndarray:
        """int64[S]: how many of them are before the segment."""
        sizes = np.diff(self.table.arrays()[1])[::2]
        return sizes[self.entries] if len(self.entries) else np.empty(0, np.int64)

    def dropped(self, counts: np.ndarray) -> np.ndarray:
        """int64[S]: plain tokens that each removes; int64[N] `counts` says whose they are."""
        flags = self.table.flags()
        if not len(flags) or not len(self.entries):
            return np.zeros(len(self.entries), np.int64)
        return np.where(flags[self.entries] & DROP, self.segment_sizes(counts), 0)

    def segment_sizes(self, counts: np.ndarray) -> np.ndarray:
        """int64[S]: plain tokens from each cut to the one before it, or to the begin of its sequence."""
        begins = np.zeros(len(self.cuts), np.int64)
        begins[1:] = self.cuts[:-1]
        begins[(np.cumsum(counts) - counts)[counts > 0]] = 0
        return self.cuts - begins

    def num_segments(self) -> int:
        """How many segments they are about; one that has several pieces counts once."""
        inside = self.table.inside()
        return len(self.entries) - (int(inside[self.entries].sum()) if inside.any() else 0)

    def ids(self) -> np.ndarray:
        """int32[sum of sizes]: their ids, concatenated."""
        flat, offsets = self.table.arrays()
        sizes = np.diff(offsets[::2])[self.entries]
        shared = flat[ranges(offsets[::2][self.entries], sizes)]
        if not self.hints:
            return shared
        own = self.hints.sizes()
        starts = np.cumsum(sizes + own) - (sizes + own)
        ids = np.empty(len(shared) + len(self.hints.ids), np.int32)
        ids[ranges(starts, sizes)] = shared
        ids[ranges(starts + sizes, own)] = self.hints.ids
        return ids

    def spans(self, lengths: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64[S]: in N concatenated reflected sequences, where each segment with what is written around it begins,
        where the tokens after it begin, and where they end.

        Args:
            lengths: int64[N], reflected tokens of each sequence.
            counts: int64[N], reflections of each.
        """
        sizes, before = self.sizes(), self.sizes_before()
        kept = self.segment_sizes(counts) - self.dropped(counts)
        whole = sizes + kept
        earlier = np.cumsum(whole) - whole
        first = np.append(earlier, 0)[np.minimum(np.cumsum(counts) - counts, len(sizes))]
        starts = np.repeat(np.cumsum(lengths) - lengths - first, counts) + earlier
        return starts, starts + before + kept, starts + whole

    def places(self, lengths: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """int64[sum of sizes]: where their ids are in N concatenated reflected sequences, in the order of `ids`."""
        starts, after, ends = self.spans(lengths, counts)
        sizes = np.stack([self.sizes_before(), ends - after], axis=1)
        return ranges(np.stack([starts, after], axis=1).ravel(), sizes.ravel())
