"""The sidecar: one Arrow file next to a shard that says where its reflections are, read by memory map.

Row i is sequence i: a list of (cut, entry), `cut` counting the *plain* tokens of the sequence before
the reflection and `entry` numbering the reflection in the table of the file's metadata. The same file
works in both directions: next to a reflected shard it says what to remove, next to a plain one what to
insert. Where the form has hints, the items have a third field: the ids of each reflection with a hint.
"""

import hashlib
import io
import json
import mmap
from collections.abc import Buffer, Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from megatron_srp.data.reflection_table import Entry, HintIds, Reflections, ReflectionTable
from megatron_srp.data.shards.indexed_shard import write_all
from megatron_srp.data.shards.sidecar_copies import copy_of, is_fetched
from megatron_srp.errors import InputError
from megatron_srp.files import digest, file_fingerprint
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.expand import input_file
from megatron_srp.remote.remembered import remembered_on_s3

SUFFIX = ".srp"
FORMAT_VERSION = 1
_BLOCK = 1 << 24  # items or bytes at a time
_ROWS_AT_A_TIME = 1 << 20
_ITEM = pa.struct([pa.field("cut", pa.int32(), nullable=False), pa.field("entry", pa.uint16(), nullable=False)])
_ROWS = pa.large_list(pa.field("item", _ITEM))
_HINT = pa.field("ids", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False)
_HINTED_ROWS = pa.large_list(pa.field("item", pa.struct([*_ITEM, _HINT])))
_DAMAGE = (pa.ArrowException, OSError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def sidecar_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}{SUFFIX}")


@dataclass(frozen=True, slots=True)
class ReflectionSidecar:
    """Reflections of N sequences.

    Attributes:
        offsets: int64[N+1], which of the S reflections belong to each sequence.
        cuts: int32[S], plain tokens of the sequence before each reflection, ascending within it.
        entries: uint16[S], indices into `table`.
        table: the distinct reflections.
        materialized: whether the shard next to it already contains the reflections.
        info: settings and fingerprints of the tokenizer and the form, as JSON. One that is not materialised
            also says which `shard` it is for (`describe_shard`, and its `path` then), and which `training_tokenizer`
            (as in a manifest) its reflections and the shard are trained with.
        recorded_fingerprint: of a loaded sidecar, its fingerprint when it was written.
        hints: the ids of reflections with hints; None where the form has none.
        highest_hint_id: of all of them, as a loaded sidecar recorded it.
    """

    offsets: np.ndarray
    cuts: np.ndarray
    entries: np.ndarray
    table: ReflectionTable
    materialized: bool
    info: dict[str, Any] = field(default_factory=dict)
    recorded_fingerprint: str | None = None
    hints: HintIds | None = None
    highest_hint_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def start_share(self) -> float:
        """The share of training before which the plain shard is read."""
        policy = self.info.get("policy") or {}
        return float(policy.get("start_share", 0.0))

    @property
    def fingerprint(self) -> str:
        """A hash, equal for sidecars with which the same tokens are read, and learned, from the same shard."""
        content = hashlib.sha256()
        for array in self._arrays():
            for begin in range(0, len(array), _BLOCK):
                content.update(np.ascontiguousarray(array[begin : begin + _BLOCK]).data)
                self._forget_pages()
        table = [entry.to_json() for entry in self.table.entries]
        return digest([content.hexdigest(), table, *([self.start_share] if self.start_share else [])])

    def _arrays(self) -> list[np.ndarray]:
        own = [self.hints.offsets, self.hints.ids] if self.hints else []
        return [self.offsets, self.cuts, self.entries, *own]

    def counts(self, begin: int, end: int) -> np.ndarray:
        """int64[end - begin]: reflections of each of the sequences begin..end."""
        return np.diff(self.offsets[begin : end + 1])

    def reflections(self, begin: int, end: int) -> Reflections:
        """The reflections of the sequences begin..end, concatenated."""
        own = slice(int(self.offsets[begin]), int(self.offsets[end]))
        return Reflections(self.cuts[own], self.entries[own], self.table, self.hints[own] if self.hints else None)

    def dropped_tokens(self) -> int:
        """How many plain tokens its policy leaves out of the shard."""
        if not self.table.drops():
            return 0
        blocks = ((begin, min(begin + _ROWS_AT_A_TIME, len(self))) for begin in range(0, len(self), _ROWS_AT_A_TIME))
        return sum(int(self.reflections(*block).dropped(self.counts(*block)).sum()) for block in blocks)

    def highest_id(self) -> int:
        """The highest token id in any reflection."""
        return max(
            self.highest_hint_id, *(max((*entry.before, *entry.ids), default=0) for entry in self.table.entries), 0
        )

    def _highest_hint_id(self) -> int:
        highest = 0
        ids = self.hints.ids if self.hints else np.empty(0, np.int32)
        for begin in range(0, len(ids), _BLOCK):
            highest = max(highest, int(ids[begin : begin + _BLOCK].max()))
            self._forget_pages()
        return highest

    def _times(self) -> list[int]:
        """How often each entry of the table occurs, for those who do not want to read the file."""
        times = np.zeros(len(self.table), np.int64)
        for begin in range(0, len(self.entries), _BLOCK):
            times += np.bincount(self.entries[begin : begin + _BLOCK], minlength=len(times))
        self._forget_pages()
        return [int(number) for number in times]

    def save(self, path: Path) -> None:
        """Write the file; arrays may be memory-mapped, and are then never loaded as a whole."""
        columns, fields = [pa.array(self.cuts), pa.array(self.entries)], list(_ITEM)
        if self.hints:
            ids = pa.array(self.hints.ids)
            columns.append(pa.LargeListArray.from_arrays(pa.array(self.hints.offsets), ids, _HINT.type))
            fields.append(_HINT)
        items = pa.StructArray.from_arrays(columns, fields=fields)
        offsets = pa.array(np.ascontiguousarray(self.offsets))
        rows = pa.LargeListArray.from_arrays(offsets, items)
        header = {
            "version": FORMAT_VERSION,
            "materialized": self.materialized,
            "fingerprint": self.fingerprint,
            "table": [entry.to_json() for entry in self.table.entries],
            "info": self.info,
            **({"highest_hint_id": self._highest_hint_id()} if self.hints else {}),
            **({"times": self._times()} if self.info.get("policy") else {}),
        }
        schema = pa.schema([pa.field("reflections", rows.type)], metadata={"srp": json.dumps(header)})
        with path.open("wb", buffering=0) as file:
            sink = pa.PythonFile(_BlockWriter(file, self._forget_pages), mode="w")
            with pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.record_batch([rows], schema=schema))

    def _forget_pages(self) -> None:
        """Let the system reclaim the pages of memory-mapped arrays read so far."""
        for array in self._arrays():
            if isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)

    @classmethod
    def load(cls, path: str | Path) -> "ReflectionSidecar":
        """Map the file, or the copy of one on S3; raises InputError when it is missing or not a sidecar."""
        header = read_header(path)
        try:
            with pa.memory_map(copy_of(path)) as source:
                rows = pa.ipc.open_file(source).get_batch(0).column(0)
            if rows.type not in (_ROWS, _HINTED_ROWS) or rows.null_count or rows.values.null_count:
                raise ValueError(f"its column is {rows.type}, not {_ROWS} without nulls")
            rows.validate()
            table = ReflectionTable([Entry.from_json(entry) for entry in header["table"]])
            offsets = rows.offsets.to_numpy()
            cuts, entries = (rows.values.field(i).to_numpy() for i in (0, 1))
            hints = _hint_ids(rows.values.field(2)) if rows.type == _HINTED_ROWS else None
            materialized, info, fingerprint = header["materialized"], header["info"], header["fingerprint"]
            highest = int(header["highest_hint_id"]) if hints else 0
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        return cls(
            offsets=offsets,
            cuts=cuts,
            entries=entries,
            table=table,
            materialized=materialized,
            info=info,
            recorded_fingerprint=fingerprint,
            hints=hints,
            highest_hint_id=highest,
        )


def _hint_ids(lists: pa.LargeListArray) -> HintIds:
    if lists.null_count or lists.values.null_count:
        raise ValueError("its hints have nulls")
    offsets = lists.offsets.to_numpy()
    if offsets[0] != 0 or offsets[-1] != len(lists.values):
        raise ValueError("its hints do not cover their ids")
    return HintIds(offsets, lists.values.to_numpy())


def _damaged(path: str | Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a reflection sidecar, or damaged ({error})")


def read_header(path: str | Path) -> dict[str, Any]:
    """A sidecar's metadata: `materialized`, `fingerprint`, `table` and `info`.

    Raises:
        InputError: when it is missing or not a sidecar.
    """
    try:
        with _opened(str(path)) as source:
            header: dict[str, Any] = orjson.loads(pa.ipc.open_file(source).schema.metadata[b"srp"])
        version = header.get("version")
        _require_info(header.get("info", {}))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a sidecar is written by `srp preprocess`") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: sidecar version {version}, this release reads {FORMAT_VERSION}")
    return header


def _require_info(info: Any) -> None:
    """Raises ValueError unless it names its shard, if it is for one, by a file's name or path."""
    shard = info.get("shard", {"name": "-"}) if isinstance(info, dict) else None
    name = shard.get("name") if isinstance(shard, dict) else None
    if not isinstance(name, str) or not Path(name).name or "\0" in name:
        raise ValueError("its info does not name its shard")


def _opened(path: str) -> Any:
    if on_s3(path) and not is_fetched(path):  # the header is a small part of the file
        return pa.PythonFile(input_file(path).open("rb"), mode="r")
    return pa.memory_map(copy_of(path))


@remembered_on_s3
def describe_shard(prefix: str) -> dict[str, str]:
    """The shard at `prefix`, described as in a sidecar's `info["shard"]`: equal for copies.

    Of a shard on S3, the beginnings and ends of its files are read, once in a process.
    """
    files = {end: file_fingerprint(input_file(f"{prefix}.{end}")) for end in ("bin", "idx")}
    return {"name": PurePosixPath(prefix).name, **files}


class _BlockWriter(io.RawIOBase):
    """Writes to `file` in blocks, and calls `after` after each."""

    def __init__(self, file: BinaryIO, after: Callable[[], None]) -> None:
        self._file, self._after = file, after

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), _BLOCK):
            write_all(self._file, view[begin : begin + _BLOCK])
            self._after()
        return len(view)
