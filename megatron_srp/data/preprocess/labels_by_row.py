"""Verdicts from an annotation store, joined to the documents they were given for."""

import threading
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megatron_srp.annotation.store.part import FAILED
from megatron_srp.annotation.store.store import AnnotationStore, Part, read_part
from megatron_srp.corpus.batch import SegmentBatch, TextBatch, segment_ends_in_chars, text_hashes
from megatron_srp.data.reflect import Source
from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import digest, file_fingerprint
from megatron_srp.schema import SafetyLabel, Verdict

if TYPE_CHECKING:
    from megatron_srp.data.preprocess.stored_hints import StoredHints


def open_hints(store: AnnotationStore) -> "StoredHints":
    """The hints of a store; what writes them, an HTTP client, is only imported where they are asked for."""
    from megatron_srp.data.preprocess.stored_hints import StoredHints

    return StoredHints(store)


class StoreLabeler:
    """Labels by verdicts made earlier; refuses where they were made for other text or other segments.

    Args:
        store: where the verdicts are.
        key: the JSON key of the texts.
        names, fingerprints: of the input files, in order.
        max_words: of the segments asked for.
        failed_as: the verdict of segments that got none; None refuses such segments.
        hints: whether Safe labels get the hints that the store has for them.

    Raises:
        UsageError: when the store was made with another `max_words`, or knows nothing of an input file, or
            its hints are not finished.
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
    ) -> None:
        self._names = names
        self._failed_as = failed_as
        if store.settings["max_words"] != max_words:
            made = store.settings["max_words"]
            raise UsageError(f"{store.folder} holds verdicts for segments of {made} words; pass --max-words {made}")
        self._parts = [store.parts(key, fingerprint) for fingerprint in fingerprints]
        for name, parts in zip(names, self._parts, strict=True):
            if not parts:
                raise UsageError(
                    f"{store.folder} has no verdicts for {key!r} of {name}; was the file changed "
                    "since? Annotate it with `srp annotate`"
                )
        self._hints = open_hints(store) if hints else None
        if self._hints:
            for name, parts in zip(names, self._parts, strict=True):
                self._hints.require(name, (path for _, path in parts))
        self._fingerprint = lru_cache(maxsize=None)(file_fingerprint)
        self._lock = threading.Lock()
        self._read = lru_cache(maxsize=4)(read_part)

    def identity(self, file: int, row: int) -> str:
        """Of the verdicts, and hints, for everything before `row` of file number `file`: equal where a resumed
        run finds the same. Verdicts that were added behind it do not count, so that annotating can go on meanwhile."""
        used = [
            parts if number < file else [p for p in parts if p[0] < row] for number, parts in enumerate(self._parts)
        ]
        paths = [path for parts in used[: file + 1] for _, path in parts]
        paths += map(self._hints.path, [*paths]) if self._hints else []
        return digest([self._fingerprint(path) for path in paths])

    def _part(self, file: int, row: int) -> tuple[Path, Part] | None:
        """The part that holds `row`, if there is one, and its file."""
        parts = self._parts[file]
        i = bisect_right([first for first, _ in parts], row) - 1
        if i < 0:
            return None
        with self._lock:
            part = self._read(parts[i][1])
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
            numbers = [labels.setdefault(label, len(labels)) for label in part.labels]
            if part.failures and (part.codes[picked] == FAILED).any():
                label = failed_label(self._names[source.file], part, picked, self._failed_as)
                numbers.append(labels.setdefault(label, len(labels)))
            codes[own] = np.array(numbers, np.int64)[part.codes[picked]]  # FAILED, -1, picks the last
            if self._hints:
                self._hints.label(self._names[source.file], path, part, picked, labels, codes[own])
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


def failed_label(name: str, part: Part, picked: np.ndarray, failed_as: Verdict | None) -> SafetyLabel:
    """What is written for those of the segments `picked` that have no verdict; raises InputError, which names
    the first, where that was not said."""
    if failed_as:
        return SafetyLabel(failed_as)
    segment = int(picked[part.codes[picked] == FAILED][0])
    document, within = part.document_of(segment)
    raise InputError(
        f"{name}, row {part.rows[document] + 1}, segment {within + 1}: the guard gave no verdict "
        f"({part.failures[segment]}); try again with `srp annotate --retry-failed`, or pass --failed-as Unsafe"
    )
