"""Verdicts from an annotation store, joined to their documents by file and row."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from megatron_srp.annotation.store.store import AnnotationStore, Part, read_summary
from megatron_srp.corpus.batch import SegmentBatch, TextBatch, segment_ends_in_chars, text_hashes
from megatron_srp.data.preprocess.stored_verdicts import StoredVerdicts
from megatron_srp.data.reflect import Source
from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import digest, file_fingerprint
from megatron_srp.schema import SafetyLabel, Verdict


class StoreLabeler:
    """Labels from stored verdicts; raises an error where they were made for other text or other segments.

    Args:
        store: where the verdicts are.
        key: the JSON key of the texts.
        names, fingerprints: of the input files, in order.
        max_words: of the requested segments.
        failed_as: the verdict for segments without one; None raises an error for such segments.
        hints: whether Safe labels get the store's hints.
        starts: of each file, the first row to be labelled; by default 0.

    Raises:
        UsageError: when the store was made with another `max_words`, or has no verdicts for an input file,
            or its hints are not finished.
    """

    def __init__(
        self,
        store: AnnotationStore,
        key: str,
        names: list[str],
        fingerprints: list[str],
        max_words: int,
        failed_as: Verdict | None = None,
        hints: bool = False,
        starts: Sequence[int] = (),
    ) -> None:
        self._names = names
        self._verdicts = StoredVerdicts(store, max_words, failed_as, hints)
        starts = starts or [0] * len(names)
        all_parts = [store.parts(key, fingerprint) for fingerprint in fingerprints]
        self._parts = [_parts_from(parts, start) for parts, start in zip(all_parts, starts, strict=True)]
        for name, parts in zip(names, self._parts, strict=True):
            if not parts:
                raise UsageError(
                    f"{store.folder} has no verdicts for {key!r} of {name}; was the file changed "
                    "since? Annotate it with `srp annotate`"
                )
        for name, parts in zip(names, self._parts, strict=True):
            self._verdicts.require_hints(name, (path for _, path in parts))
        self._fingerprint = lru_cache(maxsize=None)(file_fingerprint)

    def identity(self, file: int, row: int) -> str:
        """As in `Labeler`. Verdicts after `row` do not count, so that annotation can continue in the meantime."""
        used = [
            parts if number < file else [p for p in parts if p[0] < row] for number, parts in enumerate(self._parts)
        ]
        paths = [path for parts in used[: file + 1] for _, path in parts]
        return digest([self._fingerprint(path) for path in self._verdicts.files(paths)])

    def _part(self, file: int, row: int) -> tuple[Path, Part] | None:
        """The part that contains `row`, if there is one, and its file."""
        parts = self._parts[file]
        i = bisect_right([first for first, _ in parts], row) - 1
        if i < 0:
            return None
        part = self._verdicts.read(parts[i][1])
        return (parts[i][1], part) if row < part.end else None

    def __call__(
        self, source: Source, batch: TextBatch, segments: SegmentBatch
    ) -> tuple[np.ndarray, list[SafetyLabel]]:
        hashes, ends = text_hashes(batch), segment_ends_in_chars(batch, segments)
        labels: dict[SafetyLabel, int] = {}
        codes = np.empty(len(segments), np.int64)
        begin = 0
        while begin < len(batch):
            found = self._part(source.file, int(source.rows[begin]))
            if found is None:
                raise InputError(
                    f"{self._where(source, begin)}: the annotation store has no verdicts for it; "
                    "finish annotating first"
                )
            path, part = found
            stop = int(np.searchsorted(source.rows, part.end))
            own = slice(segments.offsets[begin], segments.offsets[stop])
            picked = self._pick(
                source, part, begin, stop, hashes, ends[own], np.diff(segments.offsets[begin : stop + 1])
            )
            codes[own] = self._verdicts.codes(self._names[source.file], path, part, picked, labels)
            begin = stop
        return codes, list(labels)

    def _pick(
        self,
        source: Source,
        part: Part,
        begin: int,
        stop: int,
        hashes: np.ndarray,
        ends: np.ndarray,
        counts: np.ndarray,
    ) -> np.ndarray:
        """Which segments of `part` those of documents begin..stop are."""
        rows = source.rows[begin:stop]
        at = np.minimum(np.searchsorted(part.rows, rows), len(part.rows) - 1)
        same = (part.rows[at] == rows) & (part.hashes[at] == hashes[begin:stop])
        same &= np.diff(part.offsets)[at] == counts
        if same.all():
            first = part.offsets[at]
            local = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            picked = np.repeat(first, counts) + local
            wrong = part.ends[picked] != ends
            if not wrong.any():
                return picked
            same[np.repeat(np.arange(len(counts)), counts)[wrong]] = False
        bad = begin + int(np.flatnonzero(~same)[0])
        raise InputError(
            f"{self._where(source, bad)}: its text or segments are not those the verdicts were made "
            "for; annotate the file again"
        )

    def _where(self, source: Source, i: int) -> str:
        return f"{self._names[source.file]}, row {source.rows[i] + 1}"


def _parts_from(parts: list[tuple[int, Path]], start: int) -> list[tuple[int, Path]]:
    """Those with rows from `start` on. Others may still be made, for other partitions of the file."""
    i = bisect_right([first for first, _ in parts], start)
    if i and read_summary(parts[i - 1][1]).end > start:
        i -= 1
    return parts[i:]
