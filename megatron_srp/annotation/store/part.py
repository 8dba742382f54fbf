"""One Parquet part of an annotation store: the verdicts on one chunk of one input file.

A row is a document: its row in the input file, a hash of its text, and lists over its segments: ends
(character offsets), verdicts, categories (joined by ", "), scores (probability of the verdict; null where
the guard reports none) and failures (why there is no verdict; null where there is one). A cascade adds stages and
front_harms (`settling`). The file's metadata says where the chunk ends in the input, whether it is the file's last, how
many segments failed, and how many a cascade settled where, so that a resumed run reads only footers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.annotation.store.settling import Settling
from megatron_srp.errors import InputError, OutputError
from megatron_srp.files import replacing
from megatron_srp.schema import SafetyLabel, Verdict

FAILED = -1  # the code of a segment without a verdict
_FEW = ["verdicts.list.element", "categories.list.element"]  # columns of few different strings
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("text_hash", pa.uint64()),
        ("ends", pa.list_(pa.int32())),
        ("verdicts", pa.list_(pa.string())),
        ("categories", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("failures", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """Verdicts on N documents of one input file, S segments in all.

    Attributes:
        rows: int64[N] rows in the input file, ascending.
        hashes: uint64[N] of the texts (`text_hashes`).
        offsets: int64[N+1], which segments belong to each document.
        ends: int32[S] character offsets at which the segments end.
        codes: int64[S] numbers in `labels`, FAILED where there is no verdict.
        labels: the distinct labels.
        scores: float32[S], NaN where there is none.
        end: the first row after the part.
        failures: by segment, why it has no verdict.
        last: whether the file has no documents after `end`.
        settling: who settled each segment; None where the guard is no cascade.
    """

    rows: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray
    ends: np.ndarray
    codes: np.ndarray
    labels: list[SafetyLabel]
    scores: np.ndarray
    end: int
    failures: dict[int, str] = field(default_factory=dict)
    last: bool = False
    settling: Settling | None = None

    def document_of(self, segment: int) -> tuple[int, int]:
        """Number of the document that holds `segment`, and of the segment in it."""
        document = int(np.searchsorted(self.offsets, segment, "right")) - 1
        return document, segment - int(self.offsets[document])


@dataclass(frozen=True, slots=True)
class PartSummary:
    """A part's footer: rows [first, end) of the input, how many segments failed, and, of a cascade, how many it settled
    where (`Settling.counts`) and the highest probability of harm among those below its threshold (-1 for none)."""

    path: Path
    first: int
    end: int
    last: bool
    failed: int
    settled: Mapping[str, int] = field(default_factory=dict)
    highest_harm: float = -1.0


def _lists(offsets: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _table(part: Part) -> pa.Table:
    codes = pa.array(part.codes.astype(np.int32), mask=part.codes == FAILED)

    def named(values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string())).cast(pa.string())

    failures: list[str | None] = [None] * len(part.codes)
    for segment, reason in part.failures.items():
        failures[segment] = reason
    columns = [
        pa.array(part.rows),
        pa.array(part.hashes),
        _lists(part.offsets, pa.array(part.ends)),
        _lists(part.offsets, named([str(label.verdict) for label in part.labels])),
        _lists(part.offsets, named([", ".join(label.categories) for label in part.labels])),
        _lists(part.offsets, pa.array(part.scores, pa.float32(), mask=np.isnan(part.scores))),
        _lists(part.offsets, pa.array(failures, pa.string())),
    ]
    metadata = {"end": str(part.end), "last": str(int(part.last)), "failed": str(len(part.failures))}
    schema = _SCHEMA
    if part.settling is not None:
        for name, values in part.settling.columns().items():
            columns.append(_lists(part.offsets, values))
            schema = schema.append(pa.field(name, columns[-1].type))
        counts = part.settling.counts(part.codes, part.labels)
        metadata["settled"] = json.dumps(dict(sorted(counts.items())))
        metadata["highest_harm"] = repr(part.settling.highest_harm)
    return pa.table(columns, schema=schema.with_metadata(metadata))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically.

    Raises:
        OutputError: when it cannot be written; then no file of that name is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Where a file system has no locks, two writers still must not mix.
        with replacing(path, shared=True) as new, new.open("wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror or error}; finished parts are kept: remove the cause, then rerun the same command"
        ) from None


def write_part(path: Path, part: Part) -> None:
    """`write_table` of `part`; the same part always produces the same bytes."""
    write_table(path, _table(part))


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a part of an annotation store, or damaged ({error}); delete it and annotate again")


def read_summary(path: Path) -> PartSummary:
    """Raises InputError when the file is damaged."""
    try:
        metadata = pq.read_schema(path).metadata
        end, last, failed = (int(metadata[name]) for name in (b"end", b"last", b"failed"))
        settled = dict(json.loads(metadata.get(b"settled", b"{}")))
        highest = float(metadata.get(b"highest_harm", b"-1"))
        return PartSummary(path, int(path.stem), end, bool(last), failed, settled, highest)
    except (pa.ArrowException, OSError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> pa.Table:
    """The file, with columns of few strings as dictionaries, which takes a third of the time."""
    try:
        with pq.ParquetFile(path, read_dictionary=_FEW) as file:
            return file.read(use_threads=False)
    except pa.ArrowNotImplementedError:  # a column has several dictionaries
        return pq.read_table(path)


def read_part(path: Path) -> Part:
    """Raises InputError when the file is damaged."""
    try:
        table = _read(path).combine_chunks()
        names = ("ends", "verdicts", "categories", "scores", "failures")
        ends, verdicts, categories, scores, failures = (table.column(name).combine_chunks() for name in names)
        codes, labels = _codes(verdicts.values, categories.values)
        rows, at, metadata = table.column("row").to_numpy(), ends.offsets, table.schema.metadata
        alike = all(
            lists.offsets == at and not lists.null_count for lists in (ends, verdicts, categories, scores, failures)
        )
        if not alike or (np.diff(rows) < 1).any():
            raise ValueError("its columns do not fit together")
        return Part(
            rows=rows,
            hashes=table.column("text_hash").to_numpy(),
            offsets=at.to_numpy().astype(np.int64),
            ends=ends.values.to_numpy(),
            codes=codes,
            labels=labels,
            scores=scores.values.to_numpy(zero_copy_only=False).astype(np.float32),
            end=int(metadata[b"end"]),
            failures=_reasons(failures.values),
            last=bool(int(metadata[b"last"])),
            settling=_settling(table),
        )
    except (pa.ArrowException, OSError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _settling(table: pa.Table) -> Settling | None:
    if "stages" not in table.column_names:
        return None
    stages, harms = (table.column(name).combine_chunks().values for name in ("stages", "front_harms"))
    return Settling(stages.to_numpy(zero_copy_only=False).astype(str), harms.to_numpy(zero_copy_only=False))


def _reasons(failures: pa.Array) -> dict[int, str]:
    found = np.flatnonzero(_valid(failures))
    return {int(i): failures[int(i)].as_py() for i in found}


def _valid(array: pa.Array) -> np.ndarray:
    """bool[N]: which are not null. Arrow imports its functions first, 0.1 s; most arrays do without them."""
    if array.null_count in (0, len(array)):
        return np.full(len(array), not array.null_count)
    return array.is_valid().to_numpy(zero_copy_only=False)


def _codes(verdicts: pa.Array, categories: pa.Array) -> tuple[np.ndarray, list[SafetyLabel]]:
    """int64[S] numbers of labels, FAILED where there is no verdict, and the labels they number."""
    verdicts, categories = verdicts.dictionary_encode(), categories.dictionary_encode()
    width = max(len(categories.dictionary), 1)
    given = _valid(verdicts)
    kind, name = (a.indices.to_numpy(zero_copy_only=False)[given].astype(np.int64) for a in (verdicts, categories))
    pairs = kind * width + name
    distinct = np.flatnonzero(np.bincount(pairs))
    numbers = np.zeros(distinct.max(initial=0) + 1, np.int64)
    numbers[distinct] = np.arange(len(distinct))
    codes = np.full(len(verdicts), FAILED, np.int64)
    codes[given] = numbers[pairs]
    names, kinds = categories.dictionary.to_pylist(), verdicts.dictionary.to_pylist()
    return codes, [_label(kinds[pair // width], names[pair % width]) for pair in distinct]


def _label(verdict: str, categories: str) -> SafetyLabel:
    return SafetyLabel(Verdict(verdict), tuple(categories.split(", ")) if categories else ())
