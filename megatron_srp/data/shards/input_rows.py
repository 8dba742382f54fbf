"""The rows of input files that partitions have read, as their manifests record them: `"rows": [start, stop]`.

`stop` is null for a part up to the end of the file; a file without the field was read whole.
"""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def file_of(record: Record) -> Record:
    """The record of the whole file."""
    return {name: value for name, value in record.items() if name != "rows"}


def disjoint(one: Record, other: Record) -> bool:
    """Whether two records of one file have no row in common."""
    (start, stop), (other_start, other_stop) = _rows(one), _rows(other)
    return (stop is not None and stop <= other_start) or (other_stop is not None and other_stop <= start)


def join_rows(records: Sequence[Record]) -> list[Record]:
    """Records of consecutive rows of a file as one, which is the file's where it has all of them."""
    joined: list[Record] = []
    for record in records:
        if joined and file_of(joined[-1]) == file_of(record) and _rows(joined[-1])[1] == _rows(record)[0]:
            record = file_of(record) | {"rows": [_rows(joined.pop())[0], _rows(record)[1]]}
        joined.append(file_of(record) if _rows(record) == (0, None) else record)
    return joined


def _rows(record: Record) -> tuple[int, int | None]:
    start, stop = record.get("rows", (0, None))
    return start, stop
