"""Hints of an annotation store, joined to the verdicts they were written for."""

import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.annotation.store.hints import FOLDER, HintStore, hintable, is_hint
from megatron_srp.annotation.store.store import AnnotationStore, Part
from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SafetyLabel, Verdict


class StoredHints:
    """Reads the hints of a store.

    Attributes:
        settings: what wrote them.

    Raises:
        UsageError: when the store has none.
    """

    def __init__(self, store: AnnotationStore) -> None:
        self._store, self._hints = store.folder, store.folder / FOLDER
        if not (self._hints / HintStore.HEADER).exists():
            raise UsageError(f"{store.folder} has no hints; write them with `srp hints`, or leave out --hints")
        self.settings: dict[str, Any] = HintStore(self._hints).settings
        self._lock = threading.Lock()
        self._read = lru_cache(maxsize=4)(_read)

    def path(self, part: Path) -> Path:
        """The file of the hints for the verdicts in the file `part`."""
        return self._hints / part.relative_to(self._store)

    def require(self, name: str, parts: Iterable[Path]) -> None:
        """Raises UsageError when some of the verdicts on `name` have no hints yet."""
        if any(not self.path(part).exists() for part in parts):
            raise UsageError(f"{self._hints} has no hints for all of {name}; finish `srp hints` first")

    def label(
        self, name: str, file: Path, part: Part, picked: np.ndarray, labels: dict[SafetyLabel, int], codes: np.ndarray
    ) -> None:
        """Put the indices of labels with hints into `codes` int64[K], for those of the segments `picked` of
        `part` that have a hint; `labels` grows. An unusable hint is ignored, like a missing one.

        Raises:
            InputError: when the hints were written for other segments or verdicts; it names the first document.
        """
        with self._lock:
            offsets, rows, hints = self._read(self.path(file))
        _check(name, part, offsets, rows, hints)
        given = hints.take(pa.array(picked))
        for i in np.flatnonzero(given.is_valid().to_numpy(zero_copy_only=False)).tolist():
            hint = given[i].as_py()
            if is_hint(hint):
                codes[i] = labels.setdefault(SafetyLabel(Verdict.SAFE, hint=hint), len(labels))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """int64[N+1] offsets of each document's segments, int64[N] rows, and a hint or null for each segment."""
    try:
        table = pq.read_table(path)
        rows, lists = table.column("row").to_numpy(), table.column("hints").combine_chunks()
        if lists.null_count or lists.values.type != pa.string():
            raise ValueError("its columns are not those of hints")
        return lists.offsets.to_numpy().astype(np.int64), rows, lists.values
    except (pa.ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no hints, or damaged ({error}); delete it and write them again") from None


def _check(name: str, part: Part, offsets: np.ndarray, rows: np.ndarray, hints: pa.Array) -> None:
    """The hints must be for the part's documents, segment by segment, and only between Safe ones."""
    n = min(len(rows), len(part.rows))
    wrong = (rows[:n] != part.rows[:n]) | (np.diff(offsets)[:n] != np.diff(part.offsets)[:n])
    found = np.flatnonzero(wrong)
    document = int(found[0]) if len(found) else n
    if not len(found) and len(rows) == len(part.rows):
        bad = np.flatnonzero(hints.is_valid().to_numpy(zero_copy_only=False) & ~hintable(part))
        if not len(bad):
            return
        document = part.document_of(int(bad[0]))[0]
    row = part.rows[min(document, len(part.rows) - 1)] + 1
    raise InputError(
        f"{name}, row {row}: its hints were written for other segments or verdicts; delete them and write them again "
        "with `srp hints`"
    )
