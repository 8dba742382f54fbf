"""Numbers about a reflected shard, from its index and its sidecar alone, block by block."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from megatron_srp.data.policies.policy import policy_name
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.reports.document_sample import DocumentSample, LabelBits
from megatron_srp.reports.histogram import Histogram
from megatron_srp.schema import Verdict

_BLOCK_DOCUMENTS, _BLOCK_SEGMENTS = 1 << 18, 1 << 21
DENSITY_STEP = 0.1  # tokens added per 1,000, the width in which densities are counted
_STRETCHES = 10


class Stretch(NamedTuple):
    """Consecutive segments of one document none of which is Safe; ordered by length."""

    segments: int
    tokens: int
    document: int
    first: int


@dataclass(slots=True)
class ShardStatistics:
    """Of N documents with S segments.

    Attributes:
        materialized: whether the shard holds the reflections itself.
        plain_tokens, added_tokens: the documents' own tokens, and those of the reflections.
        dropped_tokens, unlearned_tokens: of the documents' own tokens, those that the policy leaves out, and those that
            are read and not learned.
        entry_counts: int64[L] how often each reflection of the table occurs in the shard.
        segment_tokens, document_tokens: plain tokens of each.
        density: tokens added per 1,000 plain ones, by document, in steps of DENSITY_STEP.
        stretches: the longest, at most ten.
        sample: which documents to show.
    """

    sidecar: ReflectionSidecar
    sample: DocumentSample
    plain_tokens: int = 0
    added_tokens: int = 0
    dropped_tokens: int = 0
    unlearned_tokens: int = 0
    entry_counts: np.ndarray = field(init=False)
    segment_tokens: Histogram = field(default_factory=Histogram)
    document_tokens: Histogram = field(default_factory=Histogram)
    density: Histogram = field(default_factory=Histogram)
    stretches: list[Stretch] = field(default_factory=list)
    _unsafe: np.ndarray = field(init=False)
    _masked: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        entries = self.sidecar.table.entries
        self.entry_counts = np.zeros(len(entries), np.int64)
        self._masked = np.array([entry.text == "mask" for entry in entries], bool)
        self._unsafe = np.array([entry.label.verdict is not Verdict.SAFE for entry in entries], bool)

    def add(self, first: int, lengths: np.ndarray) -> None:
        """Count documents first .. first + len(lengths) of `lengths` int32 tokens each, as the shard has them."""
        offsets = self.sidecar.offsets[first : first + len(lengths) + 1]
        own, offsets = self.sidecar.reflections(first, first + len(lengths)), offsets - offsets[0]
        cuts, entries = own.cuts, own.entries
        added, dropped = _sums(own.sizes(), offsets), _sums(own.dropped(np.diff(offsets)), offsets)
        plain = lengths - added + dropped if self.sidecar.materialized else lengths.astype(np.int64)
        masked = np.where(self._masked[entries], own.segment_sizes(np.diff(offsets)), 0)
        self.dropped_tokens += int(dropped.sum())
        self.unlearned_tokens += int(masked.sum())
        self.plain_tokens += int(plain.sum())
        self.added_tokens += int(added.sum())
        self.entry_counts += np.bincount(entries, minlength=len(self.entry_counts))
        self.document_tokens.add(np.maximum(plain, 0))
        self.density.add((added * 1000 / np.maximum(plain, 1) / DENSITY_STEP).astype(np.int64))
        begins = np.concatenate([[0], cuts[:-1]])[: len(cuts)]
        begins[offsets[:-1][np.diff(offsets) > 0]] = 0
        self.segment_tokens.add(np.maximum(cuts - begins, 0))
        self._find_stretches(first, offsets, begins, cuts, self._unsafe[entries])
        self.sample.add(first, offsets, entries)

    def _find_stretches(
        self, first: int, offsets: np.ndarray, begins: np.ndarray, cuts: np.ndarray, unsafe: np.ndarray
    ) -> None:
        opens = np.zeros(len(unsafe) + 1, bool)  # a stretch ends where a document begins
        opens[offsets] = True
        before = np.concatenate([[False], unsafe[:-1]])[: len(unsafe)]
        behind = np.concatenate([unsafe[1:], [False]])[: len(unsafe)]
        starts = np.flatnonzero(unsafe & (~before | opens[:-1]))
        ends = np.flatnonzero(unsafe & (~behind | opens[1:])) + 1
        tokens = cuts[ends - 1] - begins[starts]
        longest = np.lexsort((-starts, tokens, ends - starts))[::-1][:_STRETCHES]
        documents = np.searchsorted(offsets, starts[longest], "right") - 1
        found = [
            Stretch(int(ends[i] - starts[i]), int(tokens[i]), first + int(d), int(starts[i] - offsets[d]))
            for i, d in zip(longest, documents, strict=True)
        ]
        order = sorted([*self.stretches, *found], key=lambda s: (-s.segments, -s.tokens, s.document, s.first))
        self.stretches = order[:_STRETCHES]

    def verdicts(self) -> dict[str, int]:
        """Segments by verdict."""
        return self._count(lambda label: [label.verdict])

    def categories(self) -> dict[str, int]:
        """Segments by category."""
        return self._count(lambda label: label.categories)

    def _segment_counts(self) -> np.ndarray:
        """int64[L]: of how many segments each reflection is the last."""
        return np.where(self.sidecar.table.inside(), 0, self.entry_counts)

    def _count(self, names: Any) -> dict[str, int]:
        found: Counter[str] = Counter()
        for entry, times in zip(self.sidecar.table.entries, self._segment_counts().tolist(), strict=True):
            found.update(dict.fromkeys(map(str, names(entry.label)), times))
        return dict(sorted((name, times) for name, times in found.items() if times))

    def to_json(self) -> dict[str, Any]:
        """All numbers, as `--json` prints them."""
        stops = [entry.stop for entry in self.sidecar.table.entries]
        return {
            "materialized": self.sidecar.materialized,
            "documents": len(self.sidecar),
            "policy": policy_name(self.sidecar.info) or "srp",
            "segments": int(self._segment_counts().sum()),
            "plain_tokens": self.plain_tokens,
            "added_tokens": self.added_tokens,
            "dropped_tokens": self.dropped_tokens,
            "unlearned_tokens": self.unlearned_tokens,
            "added_per_1000": round(1000 * self.added_tokens / self.plain_tokens, 3) if self.plain_tokens else None,
            "end_of_text_after": int(self.entry_counts[np.array(stops, bool)].sum()),
            "verdicts": self.verdicts(),
            "categories": self.categories(),
            **({"hints": hints} if (hints := int(self.entry_counts[self.sidecar.table.hinted()].sum())) else {}),
            "documents_with": self.sample.documents_with(),
            "added_per_1000_by_document": self.density.to_json(DENSITY_STEP),
            "segment_tokens": self.segment_tokens.to_json(),
            "document_tokens": self.document_tokens.to_json(),
            "longest_unsafe": [stretch._asdict() for stretch in self.stretches],
        }


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64[N]: the sum of values[offsets[i] : offsets[i + 1]], which may be empty."""
    return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[offsets])


def _blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of documents with a bounded number of segments; a longer document is a range of its own."""
    begin, documents = 0, len(offsets) - 1
    while begin < documents:
        end = min(begin + _BLOCK_DOCUMENTS, documents)
        reached = np.searchsorted(offsets[begin : end + 1], offsets[begin] + _BLOCK_SEGMENTS, "right") - 1
        end = begin + max(int(reached), 1)
        yield begin, end
        begin = end


def measure(lengths: np.ndarray, sidecar: ReflectionSidecar, documents: int, seed: int) -> ShardStatistics:
    """The statistics of a whole shard, and a sample of `documents` of its documents.

    Args:
        lengths: int32[N], tokens of each sequence; may be memory-mapped.
    """
    sample = DocumentSample(LabelBits(sidecar.table.entries), documents, seed)
    statistics = ShardStatistics(sidecar, sample)
    for begin, end in _blocks(sidecar.offsets):
        statistics.add(begin, lengths[begin:end])
    return statistics
