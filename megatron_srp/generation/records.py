"""JSON objects, one per line, as `srp generate` reads and writes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from megatron_srp.corpus.compression import read_lines
from megatron_srp.errors import InputError


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object with where it is, `FILE:LINE`; empty lines are skipped. Files may be compressed.

    Raises:
        InputError: for a line that is not a JSON object.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(record, dict):
            raise InputError(f"{where}: not a JSON object")
        yield where, record
