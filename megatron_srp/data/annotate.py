"""Judge a corpus once: input files in, an annotation store out. Killed runs go on where they were."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_srp.annotation.base import SafetyClassifier
from megatron_srp.annotation.store import AnnotationStore, Part, read_part, write_part
from megatron_srp.corpus.batch import segment_batch, segment_ends_in_chars, text_hashes
from megatron_srp.corpus.readers import InputBatch, file_fingerprint, read_batches
from megatron_srp.data.reflect import GuardLabeler, Source


@dataclass(slots=True)
class Annotator:
    """Fills a store with a guard's verdicts on every segment of the files.

    Attributes:
        chunk_documents: write a part after so many documents.
        counts: documents and segments by verdict, of this run.
    """

    files: list[Path]
    store: AnnotationStore
    guard: SafetyClassifier
    max_words: int
    key: str = "text"
    chunk_documents: int = 20_000
    skip_errors: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        for number, file in enumerate(self.files):
            fingerprint = file_fingerprint(file)
            parts = self.store.parts(self.key, fingerprint)
            start = read_part(parts[-1][1]).end if parts else 0
            for part, first in self._parts(number, start):
                write_part(self.store.part_path(self.key, fingerprint, first), part)

    def _parts(self, number: int, start: int) -> Iterator[tuple[Part, int]]:
        """Parts of one file from row `start` on, with their first rows."""
        pieces: list[Part] = []
        size, first = 0, start
        for batch in read_batches(
            self.files[: number + 1], [self.key], (number, start), self.skip_errors, self.chunk_documents
        ):
            self.errors += batch.errors
            pieces.append(self._judge(batch))
            size += len(batch.rows)
            if size >= self.chunk_documents:
                yield _join(pieces), first
                pieces, size, first = [], 0, batch.end
        if pieces or not start:
            yield _join(pieces), first

    def _judge(self, batch: InputBatch) -> Part:
        text = batch.texts[self.key]
        segments = segment_batch(text, self.max_words)
        codes, labels = GuardLabeler(self.guard)(Source(batch.file, batch.rows), text, segments)
        self.counts["documents"] += len(batch.rows)
        for label, times in zip(labels, np.bincount(codes, minlength=len(labels)), strict=True):
            self.counts[label.verdict] += int(times)
        ends = segment_ends_in_chars(text, segments)
        scores = np.full(len(segments), np.nan, np.float32)
        return Part(batch.rows, text_hashes(text), segments.offsets, ends, codes, labels, scores, batch.end)


def _join(parts: list[Part]) -> Part:
    """The documents of `parts` as one part."""
    labels = list(dict.fromkeys(label for part in parts for label in part.labels))
    codes = [np.array([labels.index(label) for label in part.labels], np.int64)[part.codes] for part in parts]
    counts = [np.diff(part.offsets) for part in parts]
    none: dict[str, np.ndarray] = {t: np.empty(0, t) for t in ("int64", "uint64", "int32", "float32")}
    return Part(
        np.concatenate([none["int64"], *(part.rows for part in parts)]),
        np.concatenate([none["uint64"], *(part.hashes for part in parts)]),
        np.concatenate([[0], np.cumsum(np.concatenate([none["int64"], *counts]))]),
        np.concatenate([none["int32"], *(part.ends for part in parts)]),
        np.concatenate([none["int64"], *codes]),
        labels,
        np.concatenate([none["float32"], *(part.scores for part in parts)]),
        parts[-1].end if parts else 0,
    )
