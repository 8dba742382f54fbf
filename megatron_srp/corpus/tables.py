"""Small tables as dictionaries: CSV, JSON, JSON lines and Parquet, the formats of evaluation data sets."""

import csv
import io
import json
from typing import Any

from megatron_srp.corpus.readers import parquet_source
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

KINDS = ("csv", "json", "jsonl", "parquet")


def read_rows(file: InputFile, kind: str | None = None, headless: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table.

    Args:
        kind: one of `KINDS`; by default what the file's name ends in.
        headless: a column; a CSV file that does not name it has no header, and every line is its value.

    Raises:
        InputError: for a file that cannot be read or is not such a table.
    """
    kind = kind or file.suffix.lstrip(".")
    if kind == "parquet":
        return _parquet_rows(file)
    try:
        with io.TextIOWrapper(file.open("rb"), encoding="utf-8-sig") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    try:
        if kind == "csv":
            return _csv_rows(text, headless)
        lines = (line for line in text.split("\n") if line.strip())  # Unicode has more line ends
        parsed = [json.loads(line) for line in lines] if kind == "jsonl" else json.loads(text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}: not valid {kind or 'JSON'} ({error})") from None
    rows: list[Any] = [_by_role(row) for row in parsed] if isinstance(parsed, list) else [parsed]
    if not isinstance(parsed, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: not a list of objects")
    return rows


def _by_role(row: Any) -> Any:
    """A conversation (a list of messages) as a row with the last message of each role; any other row unchanged."""
    said = isinstance(row, list) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in row)
    return {str(one["role"]): one["content"] for one in row} if said and row else row


def _csv_rows(text: str, headless: str | None) -> list[dict[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if headless and rows and headless not in rows[0]:
        return [{headless: ",".join(row)} for row in rows]  # a bare line may have commas
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]


def _parquet_rows(file: InputFile) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(parquet_source(file)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid parquet ({error})") from None
    return rows
