"""How often a guard's verdict changes when the cuts move, or the text before a segment is shown:
`srp evaluate-guard --cuts`.

A random segment of each sampled document is judged, and then the segment of other cuts that covers its middle. One
segment of a document, because those of one document are not independent, and Clopper and Pearson's intervals take them
to be.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.sample import SegmentSample
from megatron_srp.annotation.classify_segments import classify_segments
from megatron_srp.annotation.store.part import FAILED
from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.corpus.contexts import last_words, last_words_begin
from megatron_srp.corpus.readers import read_batches
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.schema import Verdict
from megatron_srp.segmentation import LARGEST_MAX_WORDS
from megatron_srp.statistics.clopper_pearson import lower_bound, upper_bound

_ONE_SIDE = 0.975  # of a two-sided interval of 95%


@dataclass(frozen=True, slots=True)
class Place:
    """A segment of a document: its bytes `start` to `end`, and `number` among the document's segments."""

    document: bytes
    start: int
    end: int
    number: int

    @property
    def text(self) -> str:
        return self.document[self.start : self.end].decode()

    def recut(self, max_words: int, begin: int = 0) -> str:
        """The segment over this one's middle when cutting starts at byte `begin`, with that many words at most."""
        rest = TextBatch.from_texts([self.document[begin:].decode()])
        ends = segment_batch(rest, max_words).ends
        at = int(np.searchsorted(ends, (self.start + self.end) // 2 - begin, side="right"))
        return rest.text[ends[at - 1] if at else 0 : ends[at]].tobytes().decode()


@dataclass(frozen=True, slots=True)
class Change:
    """What one change does to the verdicts on N segments.

    Attributes:
        change: what is changed.
        segments: N: those it applies to, and for which both verdicts are known.
        changed: how many verdicts differ. low, high: 95% interval of their share.
        harmful: segments that are not Safe before. became_safe: how many of these are after.
        became_harmful: how many of the Safe ones are not Safe after.
    """

    change: str
    segments: int
    changed: int
    low: float
    high: float
    harmful: int
    became_safe: int
    became_harmful: int


@dataclass(frozen=True, slots=True)
class CutsEvaluation:
    """How stable a guard's verdicts are; `documents` sampled, `failed` verdicts missing."""

    settings: dict[str, Any]
    max_words: int
    documents: int
    failed: int
    changes: list[Change]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sample_places(files: Sequence[InputFile], key: str, max_words: int, size: int, seed: int = 0) -> list[Place]:
    """A random segment of each of at most `size` random documents; raises InputError where there is none."""
    sample = SegmentSample(size, seed)
    for batch in read_batches(list(files), [key]):
        sample.add(batch.texts[key].to_arrow())
    documents = TextBatch.from_arrow(sample.texts)
    cut, rng = segment_batch(documents, max_words), np.random.default_rng(seed)
    places = []
    for i, (first, last) in enumerate(zip(cut.offsets[:-1].tolist(), cut.offsets[1:].tolist(), strict=True)):
        if first < last:
            begin, row = int(documents.offsets[i]), int(rng.integers(first, last))
            start = int(cut.ends[row - 1]) if row > first else begin
            text = documents.text[begin : documents.offsets[i + 1]].tobytes()
            places.append(Place(text, start - begin, int(cut.ends[row]) - begin, row - first))
    if not places:
        raise InputError("the input has no segment; pass --input with texts")
    return places


def evaluate_cuts(guard: Guard, places: Sequence[Place], max_words: int) -> CutsEvaluation:
    """Judge every segment as it is and after each change that applies to it."""
    before = _verdicts(guard, [place.text for place in places])
    double, half = min(2 * max_words, LARGEST_MAX_WORDS), max(max_words // 2, 1)
    later = [i for i, place in enumerate(places) if place.number]  # the others have no text before them
    shifted = [_shifted(places[i], max_words, half) for i in later]
    after = {
        f"at most {half} words": dict(enumerate(_verdicts(guard, [place.recut(half) for place in places]))),
        f"at most {double} words": dict(enumerate(_verdicts(guard, [place.recut(double) for place in places]))),
        f"cuts {half} words earlier": dict(zip(later, _verdicts(guard, shifted), strict=True)),
    }
    if words := guard.context_words:
        contexts = [last_words(places[i].document[: places[i].start], words) for i in later]
        found = _verdicts(guard, [places[i].text for i in later], contexts)
        after[f"{words} words before it shown"] = dict(zip(later, found, strict=True))
    judged = [*before, *(verdict for verdicts in after.values() for verdict in verdicts.values())]
    changes = [_change(name, before, verdicts) for name, verdicts in after.items()]
    return CutsEvaluation(guard.settings, max_words, len(places), judged.count(None), changes)


def _shifted(place: Place, max_words: int, words: int) -> str:
    return place.recut(max_words, last_words_begin(place.document[: place.start], words))


def _verdicts(guard: Guard, texts: Sequence[str], contexts: Sequence[str] | None = None) -> list[Verdict | None]:
    """None where the guard gives no verdict. A guard that can see a context gets an empty one by default, so that the
    prompt is of the same form."""
    if guard.context_words and contexts is None:
        contexts = [""] * len(texts)
    found = classify_segments(guard, pa.array(texts, pa.large_string()), contexts)
    return [None if code == FAILED else found.labels[code].verdict for code in found.codes.tolist()]


def _change(name: str, before: Sequence[Verdict | None], after: dict[int, Verdict | None]) -> Change:
    pairs = [(before[i], verdict) for i, verdict in after.items() if before[i] is not None and verdict is not None]
    count, changed = len(pairs), sum(a is not b for a, b in pairs)
    became_safe = sum(a is not b and b is Verdict.SAFE for a, b in pairs)
    became_harmful = sum(a is not b and a is Verdict.SAFE for a, b in pairs)
    low, high = lower_bound(changed, count, _ONE_SIDE), upper_bound(changed, count, _ONE_SIDE)
    harmful = sum(a is not Verdict.SAFE for a, _ in pairs)
    return Change(name, count, changed, low, high, harmful, became_safe, became_harmful)


def cuts_to_text(found: CutsEvaluation) -> str:
    """A table in Markdown."""
    lines = [
        f"Guard {found.settings['guard']}, revision {found.settings['revision']}: a random segment of at most "
        f"{found.max_words} words from each of {found.documents:,} documents, and the segment over its middle after a "
        "change.",
        "",
        "| change | segments | verdicts that change (95% interval) | not Safe, then Safe | Safe, then not |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(change) for change in found.changes]
    return "\n".join([*lines, *([f"no verdict: {found.failed:,}, left out"] if found.failed else [])])


def _row(row: Change) -> str:
    share = f"{row.changed / row.segments:.2%}" if row.segments else "-"
    return (
        f"| {row.change} | {row.segments:,} | {share} ({row.low:.2%} to {row.high:.2%}) | "
        f"{row.became_safe:,} of {row.harmful:,} | {row.became_harmful:,} of {row.segments - row.harmful:,} |"
    )
