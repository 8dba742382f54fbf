"""Conversations from JSONL and Parquet files (plain, gzip, zstd, bzip2 or xz), checked one by one."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.corpus.compression import read_lines
from megatron_srp.corpus.jsonl import load_json
from megatron_srp.corpus.readers import is_parquet, parquet_source, require_one_column, unreadable
from megatron_srp.errors import InputError, is_utf8
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.sft.chat_formats import detect_format, read_turns
from megatron_srp.sft.conversation import Conversation, Kind, Turn

_SOURCE_KEYS = ("source", "dataset")


@dataclass(slots=True)
class ChatReader:
    """Reads conversations; each ends with an assistant turn, and no assistant turn is empty.

    Attributes:
        form: how reflections are written, in files that have them already.
        format: of all files, or None to detect it from each file's first row.
        skip_errors: skip rows that are not a conversation, rather than stop.
        prompts_alone: accept rows with a prompt and no response.
        counts: what was read, skipped and cut.
        errors: the first messages about skipped rows.
    """

    form: ReflectionFormat
    format: str | None = None
    skip_errors: bool = False
    prompts_alone: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def read(self, files: Sequence[InputFile]) -> Iterator[Conversation]:
        """All conversations of the files, in order; raises InputError."""
        for file in files:
            try:
                yield from self._read_file(file)
            except OSError as error:
                raise unreadable(error, file) from None

    def _read_file(self, file: InputFile) -> Iterator[Conversation]:
        name = self.format
        for number, load in _rows(file):
            self.counts["read"] += 1
            try:
                record = load()
                if not isinstance(record, dict):
                    raise ValueError(f"expected a JSON object, not {type(record).__name__}")
                if name is None or self.prompts_alone:  # lists of prompts may have answers to some
                    name = detect_format(record, self.prompts_alone)
                turns = self._checked(read_turns(record, name, self.form))
                conversation = Conversation(_identity(record, file, number, name), _source(record, file), turns)
                _require_utf8(conversation)
            except ValueError as error:
                self._refuse(f"{file}, row {number}: {error}")
                continue
            yield conversation

    def _refuse(self, problem: str) -> None:
        if not self.skip_errors:
            raise InputError(f"{problem}; fix or remove it, or pass --on-error skip")
        self.counts["dropped: not a conversation"] += 1
        if len(self.errors) < 10:
            self.errors.append(problem)

    def _checked(self, turns: list[Turn]) -> tuple[Turn, ...]:
        responses = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        if self.prompts_alone and not responses and turns:
            return tuple(turns)
        if not responses:
            raise ValueError("the conversation has no assistant turn")
        if any(not turns[i].text.strip() for i in responses):
            raise ValueError("an assistant turn is empty")
        if any(part.kind is Kind.TEXT and not part.text for i in responses for part in turns[i].parts):
            raise ValueError("an assistant turn has an empty part")
        self.counts["turns cut off after the last response"] += len(turns) - 1 - responses[-1]
        return tuple(turns[: responses[-1] + 1])


def _require_utf8(conversation: Conversation) -> None:
    parts = [part.text for turn in conversation.turns for part in turn.parts]
    if not is_utf8("".join([conversation.id, conversation.source, *parts])):
        raise ValueError("a lone surrogate, or bytes that are not UTF-8, in a text")


def _rows(file: InputFile) -> Iterator[tuple[int, Callable[[], Any]]]:
    """The number of each row, from 1, and a function that returns its record or raises ValueError."""
    if is_parquet(file):
        yield from _parquet_rows(file)
        return
    for number, line in enumerate(read_lines(file), start=1):
        if line and not line.isspace():
            yield number, lambda line=line: _load(line)  # type: ignore[misc]


def _load(line: bytes) -> Any:
    try:
        return load_json(line)
    except ValueError:
        if line.lstrip().startswith(b"["):
            raise ValueError("the file is one JSON list; write an object per line: jq -c '.[]' FILE") from None
        raise


def _parquet_rows(file: InputFile) -> Iterator[tuple[int, Callable[[], Any]]]:
    number = 0
    try:
        with pq.ParquetFile(parquet_source(file)) as table:
            for name in table.schema_arrow.names:
                require_one_column(file, table.schema_arrow.names, name)
            for batch in table.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield number, lambda record=record: record  # type: ignore[misc]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error})") from None


def _identity(record: dict[str, Any], file: InputFile, number: int, name: str) -> str:
    """`file:row`, or its id from when the reflections were inserted."""
    known = record.get("id") if name == "srp" else None
    return known if isinstance(known, str) else f"{file.name}:{number}"


def _source(record: dict[str, Any], file: InputFile) -> str:
    named = (record.get(key) for key in _SOURCE_KEYS)
    return next((value for value in named if isinstance(value, str) and value), file.name.partition(".")[0])
