"""Rows of a test as a file of JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
