"""Results that are never computed twice: lines of JSON by the content they depend on, on disk before they count.

    responses.jsonl   {"key": digest of target, defence and case, "value": {...}}

A file is only ever appended to, a group of lines at a time, which is synced; a line that a kill cut short
is removed when the file is opened again.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import digest, make_folder, naming, sync, try_lock


class Results:
    """One file of results.

    Raises:
        InputError: for a file that is damaged other than by a cut-off last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        fresh = not path.exists()
        self._file = path.open("ab+")
        self._read()
        if fresh:
            sync(path.parent)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self.path}:{number}: damaged; remove that line, and its result is recomputed"
                ) from None

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def get(self, key: str) -> Any:
        """The result, or None where it is missing."""
        return self._known.get(key)

    def add(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Keep results: all of them are on disk when this returns."""
        lines = []
        for key, value in entries:
            line = json.dumps({"key": key, "value": value}, ensure_ascii=False)
            self._known[key] = json.loads(line)["value"]  # as a later run will read it
            lines.append(f"{line}\n")
        with naming(self.path):
            self._file.write("".join(lines).encode("utf-8", "surrogatepass"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ResultStore:
    """The files of results in a folder, for one run at a time.

    Raises:
        UsageError: when another run writes there.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.folder = folder
        self._files: dict[str, Results] = {}
        self._lock = (folder / "lock").open("w")
        if not try_lock(self._lock.fileno()):
            self._lock.close()
            raise UsageError(f"another evaluation writes to {folder}; wait for it, or pass another --out")

    def file(self, name: str) -> Results:
        """The results of that name."""
        if name not in self._files:
            self._files[name] = Results(self.folder / f"{name}.jsonl")
        return self._files[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._lock.close()


def key_of(*parts: Any) -> str:
    """The key of a result that depends on these JSON-like values and on nothing else."""
    return digest(list(parts))
