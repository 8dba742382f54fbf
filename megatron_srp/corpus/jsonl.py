"""Texts from JSON lines, a batch at a time.

msgspec checks each line and finds the requested strings in it without decoding the rest, and a kernel
unescapes them into one buffer: no Python string is created per text. Lines in which anything is wrong
are parsed again by `load_json`, which decides and says what is wrong.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import orjson

from megatron_srp.corpus import _text
from megatron_srp.corpus.batch import TextBatch, invalid_utf8
from megatron_srp.errors import is_utf8
from megatron_srp.remote.remote_file import InputFile

_NO_STRING = b""


class JsonLines:
    """Lines of one file, collected until `texts` is asked for, on any thread.

    Attributes:
        rows: row numbers in the file.
        size: bytes collected.
    """

    def __init__(self, path: InputFile, keys: Sequence[str]) -> None:
        self._path, self._keys = path, tuple(keys)
        self.clear()

    def clear(self) -> None:
        self.rows: list[int] = []
        self.size = 0
        self._lines: list[bytes] = []
        self._strings: list[list[Any]] = []

    def add(self, row: int, line: bytes) -> None:
        self.rows.append(row)
        self.size += len(line)
        self._lines.append(line)

    def texts(self) -> tuple[np.ndarray, dict[str, TextBatch], list[str]]:
        """The rows int64[N] that have texts, the texts by key, and a line for each row that has none."""
        self._strings = self._found()
        texts, bad = self._unescape()
        if not bad.any():
            return np.array(self.rows, np.int64), texts, []
        errors = []
        for i in np.flatnonzero(bad).tolist():
            try:
                for column, text in zip(self._strings, parse_line(self._lines[i], self._keys), strict=True):
                    column[i] = orjson.dumps(text)
                bad[i] = False
            except ValueError as error:
                errors.append(f"{self._path}, line {self.rows[i] + 1}: {error}")
        good = np.flatnonzero(~bad)
        self._strings = [[column[i] for i in good] for column in self._strings]
        return np.array(self.rows, np.int64)[good], self._unescape()[0], errors

    def _found(self) -> list[list[Any]]:
        """By key, the JSON of the value in each line, bytes-like."""
        find = _string_finder(self._keys)
        columns: list[list[Any]] = [[] for _ in self._keys]
        for line in self._lines:
            try:
                found = find(line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                found = (_NO_STRING,) * len(columns)
            for column, string in zip(columns, found, strict=True):
                column.append(string)
        return columns

    def _unescape(self) -> tuple[dict[str, TextBatch], np.ndarray]:
        """The texts by key, and bool[N]: where one of them is not a valid string."""
        texts = {}
        bad = np.zeros(len(self._strings[0]), bool)
        for key, strings in zip(self._keys, self._strings, strict=True):
            offsets, wrong = np.empty(len(strings) + 1, np.int64), np.empty(len(strings), np.uint8)
            texts[key] = TextBatch(np.frombuffer(_text.unescape(strings, offsets, wrong), np.uint8), offsets)
            bad |= wrong.astype(bool)
            bad[invalid_utf8(texts[key].to_arrow())] = True
        return texts, bad


@lru_cache
def _string_finder(keys: tuple[str, ...]) -> Callable[[bytes], Sequence[Any]]:
    """A function that returns the JSON of the values under `keys` in a line, bytes-like; it raises
    MsgspecError, ValueError or RecursionError for a line that is not an object with these keys."""
    names = [f"key_{i}" for i in range(len(keys))]
    try:
        fields = [(name, msgspec.Raw) for name in names]
        row = msgspec.defstruct("Row", fields, rename=dict(zip(names, keys, strict=True)))
    except ValueError:  # a key with a quote in it
        return lambda line: [orjson.dumps(text) for text in parse_line(line, keys)]
    decode, values = msgspec.json.Decoder(row).decode, msgspec.structs.astuple
    return lambda line: values(decode(line))


def load_json(line: bytes) -> Any:
    """A JSON value as Python's own parser takes it, the one that wrote most corpora: with NaN, Infinity, numbers
    beyond a double's range and lone surrogates. Check a string with `is_utf8` before using it.

    Raises:
        ValueError: with orjson's reason.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            raise ValueError(f"not valid JSON ({error.msg}, column {error.colno})") from None


def parse_line(line: bytes, keys: Sequence[str]) -> list[str]:
    """The texts of one JSON line; raises ValueError with the reason when it lacks one."""
    record = load_json(line)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, e.g. {{{keys[0]!r}: ...}}, not {type(record).__name__}")
    texts = []
    for key in keys:
        text = record.get(key)
        if not isinstance(text, str):
            if key in record:
                raise ValueError(f"{key!r} is {type(text).__name__}, not a string")
            raise ValueError(f"no key {key!r}; it has {', '.join(map(repr, list(record)[:8])) or 'none'}")
        if not is_utf8(text):
            raise ValueError(f"not valid JSON ({key!r} holds a lone surrogate or bytes that are not UTF-8)")
        texts.append(text)
    return texts
