"""Documents from JSONL and Parquet files, in batches of flat arrays."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.corpus.batch import TextBatch, invalid_utf8
from megatron_srp.corpus.compression import Consumed, read_lines
from megatron_srp.corpus.jsonl import JsonLines
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

BATCH_BYTES = 4 << 20
_FIRST_LINES = 64


@dataclass(slots=True)
class InputBatch:
    """Consecutive documents of one file.

    Attributes:
        file: number of the file.
        rows: int64[N] rows (from 0) of the documents in it; bad rows are skipped.
        end: the first row after the batch.
        texts: by JSON key, the N texts under it.
        errors: one line for every bad row skipped.
        consumed: bytes of the file, as stored on disk, read up to here.
    """

    file: int
    rows: np.ndarray
    end: int
    texts: dict[str, TextBatch]
    errors: list[str] = field(default_factory=list)
    consumed: int = 0


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Consecutive documents of one file, read and not parsed.

    Attributes:
        file: number of the file.
        parse: what makes the batch, once, on any thread; it raises InputError for a bad row unless they are skipped.
    """

    file: int
    parse: Callable[[], InputBatch]


def is_parquet(path: InputFile) -> bool:
    if path.suffix == ".parquet":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_batches(
    files: Sequence[InputFile],
    keys: Sequence[str],
    start: tuple[int, int] = (0, 0),
    skip_errors: bool = False,
    most: int = 1 << 16,
    parts: Sequence[tuple[int, int | None]] | None = None,
) -> Iterator[InputBatch]:
    """All documents of `files` from row `start[1]` of file `start[0]` on.

    Args:
        keys: JSON keys or Parquet columns to read.
        most: maximum documents per batch, which also ends at about BATCH_BYTES of JSON.
        skip_errors: skip bad rows and report them, rather than raise.
        parts: the rows [start, stop) to read of each file, to its end where stop is None; by default all. In a Parquet
            file, stop is where a row group ends.

    Raises:
        InputError: for a damaged file, and for a bad row unless `skip_errors`. A JSON-lines file without any good
            row raises in any case: it is a file of another kind, or the key is wrong.
    """
    return (batch.parse() for batch in read_raw(files, keys, start, skip_errors, most, parts))


def read_raw(
    files: Sequence[InputFile],
    keys: Sequence[str],
    start: tuple[int, int],
    skip_errors: bool,
    most: int,
    parts: Sequence[tuple[int, int | None]] | None,
) -> Iterator[RawBatch]:
    """`read_batches` without the work that other threads can do."""
    for number in range(start[0], len(files)):
        first, stop = parts[number] if parts else (0, None)
        if number == start[0]:
            first = max(first, start[1])
        try:
            read = _read_parquet if is_parquet(files[number]) else _read_jsonl
            if skip_errors and read is _read_jsonl:
                _require_a_good_line(files[number], keys)
            yield from read(files[number], number, keys, (first, stop), skip_errors, most)
        except OSError as error:
            raise unreadable(error, files[number]) from None


def unreadable(error: OSError, path: InputFile | None = None) -> InputError:
    """The error for an input file that has disappeared, or a failing disk."""
    return InputError(f"{error.filename or path}: {error.strerror or error}; restore the file and rerun the command")


_ADVICE = "fix or remove it, or pass --on-error skip"


def _read_jsonl(
    path: InputFile, number: int, keys: Sequence[str], wanted: tuple[int, int | None], skip: bool, most: int
) -> Iterator[RawBatch]:
    lines, consumed = JsonLines(path, keys), Consumed()
    first, stop = wanted
    for row, line in enumerate(islice(read_lines(path, consumed), stop)):
        if row < first or not line or line.isspace():
            continue
        lines.add(row, line)
        if lines.size >= BATCH_BYTES or len(lines.rows) >= most:
            yield RawBatch(number, partial(_from_lines, lines, number, skip, consumed.bytes))
            lines = JsonLines(path, keys)
    if lines.rows:
        yield RawBatch(number, partial(_from_lines, lines, number, skip, consumed.bytes))


def _from_lines(lines: JsonLines, number: int, skip: bool, consumed: int) -> InputBatch:
    end = lines.rows[-1] + 1
    rows, texts, errors = lines.texts()
    if errors and not skip:
        raise InputError(f"{errors[0]}; {_ADVICE}")
    lines.clear()  # no second copy of the texts is kept
    return InputBatch(number, rows, end, texts, errors, consumed)


def _require_a_good_line(path: InputFile, keys: Sequence[str]) -> None:
    """Raise InputError for a file that `--on-error skip` would skip completely. The answer does not depend on where
    in the file a run resumes; where the first lines are good, only they are read."""
    reason = ""
    for raw in _read_jsonl(path, 0, keys, (0, None), skip=True, most=_FIRST_LINES):
        batch = raw.parse()
        if len(batch.rows):
            return
        reason = reason or batch.errors[0]
    if reason:
        raise InputError(f"{reason}; no other line is usable: drop the file, or pass its key with --json-keys")


def require_one_column(path: InputFile, names: Sequence[str], key: str) -> None:
    """Raise InputError where several columns have that name: there is no telling which one is meant."""
    if (count := names.count(key)) > 1:
        raise InputError(f"{path}: {count} columns are called {key!r}; rename all but one")


def parquet_source(path: InputFile) -> Path | BinaryIO:
    """What pyarrow opens: it maps local files itself; of a remote one it fetches the columns of each row group."""
    return path if isinstance(path, Path) else path.open("rb")


def _open_parquet(path: InputFile, keys: Sequence[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(parquet_source(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    schema = file.schema_arrow
    for key in keys:
        if key not in schema.names:
            raise InputError(f"{path}: no column {key!r}; it has {', '.join(map(repr, schema.names))}")
        require_one_column(path, schema.names, key)
        kind = schema.field(key).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise InputError(f"{path}: column {key!r} is {kind}, not a string; pass a text column with --json-keys")
    return file


def _read_parquet(
    path: InputFile, number: int, keys: Sequence[str], wanted: tuple[int, int | None], skip: bool, most: int
) -> Iterator[RawBatch]:
    file = _open_parquet(path, keys)
    first, stop = wanted
    row, bytes_per_row = 0, path.stat().st_size / max(file.metadata.num_rows, 1)
    for group in range(file.num_row_groups):
        if stop is not None and row >= stop:
            return
        size, start = file.metadata.row_group(group).num_rows, row
        if size >= 0 and row + size <= first:
            row += size
            continue
        with _explained(path, group):
            for table in file.iter_batches(batch_size=min(1024, most), row_groups=[group], columns=list(keys)):
                begin = max(first - row, 0)
                if begin < len(table):
                    consumed = int(bytes_per_row * (row + len(table)))
                    own = path, number, table.slice(begin), row + begin, keys, skip, consumed
                    yield RawBatch(number, partial(_explained(path, group)(_from_table), *own))
                row += len(table)
        if row - start != size:
            raise InputError(f"{path}: row group {group} has {row - start} rows, not {size}; is the file damaged?")


@contextmanager
def _explained(path: InputFile, group: int) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: row group {group} cannot be read ({error}); is the file damaged?") from None


def _from_table(
    path: InputFile, number: int, table: pa.RecordBatch, row: int, keys: Sequence[str], skip: bool, consumed: int
) -> InputBatch:
    columns: list[pa.LargeStringArray] = []
    bad: dict[int, str] = {}  # only the first problem of a row: it counts as one bad row
    for key in keys:
        column = table.column(key).cast(pa.large_string())
        for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            bad.setdefault(int(i), f"{path}, row {row + i + 1}: {key!r} is null, not a string")
        for j in invalid_utf8(column):
            bad.setdefault(int(j), f"{path}, row {row + j + 1}: {key!r} is not valid UTF-8")
        columns.append(column)
    errors = list(bad.values())
    if errors and not skip:
        raise InputError(f"{errors[0]}; {_ADVICE}")
    rows = np.setdiff1d(np.arange(len(table)), [*bad])
    columns = [column.take(pa.array(rows)) if bad else column for column in columns]
    texts = {key: TextBatch.from_arrow(c) for key, c in zip(keys, columns, strict=True)}
    return InputBatch(number, rows + row, row + len(table), texts, errors, consumed)
