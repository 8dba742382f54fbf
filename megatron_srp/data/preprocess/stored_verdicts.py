"""The labels that an annotation store has for segments, once they are found in it."""

import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megatron_srp.annotation.store.part import FAILED
from megatron_srp.annotation.store.store import AnnotationStore, Part, read_part
from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SafetyLabel, Verdict

if TYPE_CHECKING:
    from megatron_srp.data.preprocess.stored_hints import StoredHints


def open_hints(store: AnnotationStore) -> "StoredHints":
    """The hints of a store; their module, which needs an HTTP client, is only imported where they are requested."""
    from megatron_srp.data.preprocess.stored_hints import StoredHints

    return StoredHints(store)


class StoredVerdicts:
    """The verdicts of a store, with their hints.

    Args:
        store: where they are.
        max_words: of the requested segments.
        failed_as: the verdict for segments without one; None raises an error for such segments.
        hints: whether Safe labels get the store's hints.

    Raises:
        UsageError: when the store was made with another `max_words`, or has no hints.
    """

    def __init__(self, store: AnnotationStore, max_words: int, failed_as: Verdict | None, hints: bool) -> None:
        made = store.settings["max_words"]
        if made != max_words:
            raise UsageError(f"{store.folder} holds verdicts for segments of {made} words; pass --max-words {made}")
        self._failed_as = failed_as
        self._hints = open_hints(store) if hints else None
        self._lock = threading.Lock()
        self._read = lru_cache(maxsize=4)(read_part)

    def require_hints(self, name: str, parts: Iterable[Path]) -> None:
        """Raises UsageError when hints are requested and some of the `parts`, which are of `name`, have none."""
        if self._hints:
            self._hints.require(name, parts)

    def files(self, parts: list[Path]) -> list[Path]:
        """The files that determine the labels of `parts`: these, then those of their hints."""
        return [*parts, *(map(self._hints.path, parts) if self._hints else ())]

    def read(self, path: Path) -> Part:
        """A part of the store; the last few are kept."""
        with self._lock:
            return self._read(path)

    def codes(
        self, name: str, path: Path, part: Part, picked: np.ndarray, labels: dict[SafetyLabel, int]
    ) -> np.ndarray:
        """int64[K] indices into `labels`, which may grow, for the segments `picked` of `part`.

        Args:
            name: of what the part is about, for messages.
            path: of the part.

        Raises:
            InputError: for a segment without a verdict unless `failed_as` replaces it, and for hints that do not fit.
        """
        numbers = [labels.setdefault(label, len(labels)) for label in part.labels]
        if part.failures and (part.codes[picked] == FAILED).any():
            label = self._failed_label(name, part, picked)
            numbers.append(labels.setdefault(label, len(labels)))
        codes = np.array(numbers, np.int64)[part.codes[picked]]  # FAILED, -1, selects the last entry
        if self._hints:
            self._hints.label(name, path, part, picked, labels, codes)
        return codes

    def _failed_label(self, name: str, part: Part, picked: np.ndarray) -> SafetyLabel:
        if self._failed_as:
            return SafetyLabel(self._failed_as)
        segment = int(picked[part.codes[picked] == FAILED][0])
        document, within = part.document_of(segment)
        raise InputError(
            f"{name}, row {part.rows[document] + 1}, segment {within + 1}: the guard gave no verdict "
            f"({part.failures[segment]}); try again with `srp annotate --retry-failed`, or pass --failed-as Unsafe"
        )
