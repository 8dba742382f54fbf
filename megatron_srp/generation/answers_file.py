"""The answers to a file of prompts, written as they are finished, in any order, and put in order at the end.

While a run is unfinished they are in `OUT.partial`: a line that says what decides them, then a line for each answer. A
run that was killed resumes from there; what is torn at its end is written again.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import orjson

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import digest, naming, replacing, try_lock


class AnswersFile:
    """Collects the answers for `out`.

    Args:
        settings: all that decides an answer, as plain JSON.

    Attributes:
        done: indices of the prompts that are answered.

    Raises:
        UsageError: when `OUT.partial` is another command's, or another run is writing it.
        OutputError: when it cannot be written.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self._out, self._partial = out, out.with_name(f"{out.name}.partial")
        self._settings = digest(settings)
        self.done: set[int] = set()

    def __enter__(self) -> Self:
        try:
            self._file = self._partial.open("a+b")
        except OSError as error:
            raise OutputError(f"{self._partial}: {error.strerror}") from None
        try:
            if not try_lock(self._file.fileno()):
                raise UsageError(f"another run is writing {self._out}; wait for it, or pass another --out")
            self._resume()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, index: int, record: dict[str, Any]) -> None:
        """Write the answer to a prompt; after this a kill does not lose it."""
        self._write({"prompt": index, "answer": record})
        self.done.add(index)

    def finish(self) -> None:
        """Write all answers to `out`, in the order of their prompts, all or nothing."""
        at = {line["prompt"]: start for start, line in self._lines() if "prompt" in line}
        with naming(self._out), replacing(self._out) as new, new.open("wb") as file:
            for index in sorted(at):
                self._file.seek(at[index])
                file.write(orjson.dumps(orjson.loads(self._file.readline())["answer"]) + b"\n")
        self._partial.unlink()

    def _resume(self) -> None:
        end = 0
        for start, line in self._lines():
            if start == 0 and line.get("settings") != self._settings:
                raise UsageError(
                    f"{self._partial} holds answers of another model, other prompts or other flags; rerun that command "
                    "to finish it, or remove the file"
                )
            if "prompt" in line:
                self.done.add(line["prompt"])
            end = self._file.tell()
        self._file.truncate(end)
        if not end:
            self._write({"settings": self._settings})

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Where each whole line begins, and what it says."""
        self._file.seek(0)
        while True:
            start, line = self._file.tell(), self._file.readline()
            if not line.endswith(b"\n"):
                return
            yield start, orjson.loads(line)

    def _write(self, content: dict[str, Any]) -> None:
        with naming(self._partial):
            self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
