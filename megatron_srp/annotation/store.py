"""The annotation store: verdicts on disk, beside the corpus and without its text.

    STORE/store.json                      who judged, and with which settings
    STORE/KEY/FINGERPRINT/000000000.parquet   one file per chunk of an input file, named by its first row

A Parquet row is a document: its row in the input file, a hash of its text, and lists over its segments:
ends (character offsets), verdicts, categories (joined by ", ") and scores (probability of the verdict;
null where the guard gives none). Parts are written whole or not at all, and are readable by anything that
reads Parquet.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SafetyLabel, Verdict

FORMAT_VERSION = 1
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("text_hash", pa.uint64()),
        ("ends", pa.list_(pa.int32())),
        ("verdicts", pa.list_(pa.string())),
        ("categories", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """Verdicts of N documents of one input file, S segments in all.

    Attributes:
        rows: int64[N] rows in the input file, ascending.
        hashes: uint64[N] of the texts (`text_hashes`).
        offsets: int64[N+1], which segments belong to each document.
        ends: int32[S] character offsets at which the segments end.
        codes: int64[S] numbers in `labels`.
        labels: the distinct labels.
        scores: float32[S], NaN where there is none.
        end: the first row behind the part.
    """

    rows: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray
    codes: np.ndarray
    labels: list[SafetyLabel]
    scores: np.ndarray
    end: int


def _lists(offsets: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def write_part(path: Path, part: Part) -> None:
    """Write `part` whole or not at all."""
    codes = pa.array(part.codes.astype(np.int32))
    verdicts = pa.DictionaryArray.from_arrays(
        codes, pa.array([str(label.verdict) for label in part.labels], pa.string())
    )
    names = pa.DictionaryArray.from_arrays(
        codes, pa.array([", ".join(label.categories) for label in part.labels], pa.string())
    )
    scores = pa.array(part.scores, pa.float32(), mask=np.isnan(part.scores))
    columns = [
        pa.array(part.rows),
        pa.array(part.hashes),
        _lists(part.offsets, pa.array(part.ends)),
        _lists(part.offsets, verdicts.cast(pa.string())),
        _lists(part.offsets, names.cast(pa.string())),
        _lists(part.offsets, scores),
    ]
    schema = _SCHEMA.with_metadata({"end": str(part.end)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        pq.write_table(pa.table(columns, schema=schema), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_part(path: Path) -> Part:
    """Raises InputError when the file is damaged."""
    try:
        table = pq.read_table(path).combine_chunks()
        ends, verdicts, categories, scores = (
            table.column(name).combine_chunks() for name in ("ends", "verdicts", "categories", "scores")
        )
        codes, labels = _codes(verdicts.values, categories.values)
        return Part(
            table.column("row").to_numpy(),
            table.column("text_hash").to_numpy(),
            ends.offsets.to_numpy().astype(np.int64),
            ends.values.to_numpy(),
            codes,
            labels,
            scores.values.to_numpy(zero_copy_only=False).astype(np.float32),
            int(table.schema.metadata[b"end"]),
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a part of an annotation store, or damaged ({error}); delete it and annotate again"
        ) from None


def _codes(verdicts: pa.Array, categories: pa.Array) -> tuple[np.ndarray, list[SafetyLabel]]:
    """int64[S] numbers of labels, and the labels they number."""
    verdicts, categories = verdicts.dictionary_encode(), categories.dictionary_encode()
    width = max(len(categories.dictionary), 1)
    pairs = verdicts.indices.to_numpy().astype(np.int64) * width + categories.indices.to_numpy()
    distinct = np.flatnonzero(np.bincount(pairs))
    numbers = np.zeros(distinct.max(initial=0) + 1, np.int64)
    numbers[distinct] = np.arange(len(distinct))
    names, kinds = categories.dictionary.to_pylist(), verdicts.dictionary.to_pylist()
    return numbers[pairs], [_label(kinds[pair // width], names[pair % width]) for pair in distinct]


def _label(verdict: str, categories: str) -> SafetyLabel:
    return SafetyLabel(Verdict(verdict), tuple(categories.split(", ")) if categories else ())


class AnnotationStore:
    """A folder of verdicts by one guard with one set of settings.

    Attributes:
        settings: `guard`, `revision`, `max_words`, as recorded.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            header = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
            self.settings: dict[str, Any] = header["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{folder}: not an annotation store (no readable store.json); make one with tools/annotate.py"
            ) from None
        if header.get("version") != FORMAT_VERSION:
            raise InputError(f"{folder}: store version {header.get('version')}, this release reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> "AnnotationStore":
        """Open the store to write to it, making it if need be; raises UsageError if its settings differ."""
        path = Path(folder) / "store.json"
        if path.exists():
            store = cls(folder)
            for name in sorted({*settings, *store.settings}):
                if settings.get(name) != store.settings.get(name):
                    raise UsageError(
                        f"{folder} holds verdicts with other settings: {name} was "
                        f"{store.settings.get(name)!r}, now {settings.get(name)!r}; give a new folder"
                    )
            return store
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"version": FORMAT_VERSION, "settings": settings}, indent=2) + "\n")
        temporary.replace(path)
        return cls(folder)

    def parts(self, key: str, fingerprint: str) -> list[tuple[int, Path]]:
        """First row and path of each part of an input file, in order."""
        return sorted((int(path.stem), path) for path in (self.folder / key / fingerprint).glob("*.parquet"))

    def part_path(self, key: str, fingerprint: str, first_row: int) -> Path:
        return self.folder / key / fingerprint / f"{first_row:012d}.parquet"
