"""Where the reflections of a shard are: one Arrow file beside it, read by memory map.

Row i is sequence i: a list of (cut, entry), `cut` counting the *plain* tokens of the sequence before
the reflection and `entry` numbering the reflection in the table of the file's metadata. The same file
serves both ways round: beside a reflected shard it says what to take out, beside a plain one what to
put in.
"""

import hashlib
import io
import json
import mmap
from collections.abc import Buffer, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from megatron_srp.corpus.readers import file_fingerprint
from megatron_srp.data.interleave import Entry, ReflectionTable
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, write_all
from megatron_srp.errors import InputError
from megatron_srp.tokenization.base import digest

SUFFIX = ".srp"
FORMAT_VERSION = 1
_BLOCK = 1 << 24  # items or bytes at a time
_ITEM = pa.struct([pa.field("cut", pa.int32(), nullable=False), pa.field("entry", pa.uint16(), nullable=False)])
_ROWS = pa.large_list(pa.field("item", _ITEM))
_DAMAGE = (pa.ArrowException, OSError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def sidecar_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}{SUFFIX}")


@dataclass(frozen=True, slots=True)
class ReflectionSidecar:
    """Reflections of N sequences.

    Attributes:
        offsets: int64[N+1], which of the S reflections belong to each sequence.
        cuts: int32[S], plain tokens of the sequence before each reflection, ascending within it.
        entries: uint16[S], numbers in `table`.
        table: the distinct reflections.
        materialized: whether the shard beside it already contains the reflections.
        info: settings and fingerprints of the tokenizer and the form, as JSON. One that is not materialised
            also says which `shard` it is for (`describe_shard`), and which `training_tokenizer` (as in a
            manifest) its reflections and the shard are trained with.
        recorded_fingerprint: of a loaded sidecar, what its fingerprint was when it was written.
    """

    offsets: np.ndarray
    cuts: np.ndarray
    entries: np.ndarray
    table: ReflectionTable
    materialized: bool
    info: dict[str, Any] = field(default_factory=dict)
    recorded_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def fingerprint(self) -> str:
        """Equal for sidecars that give the same reflected tokens on the same shard."""
        content = hashlib.sha256()
        for array in (self.offsets, self.cuts, self.entries):
            for begin in range(0, len(array), _BLOCK):
                content.update(np.ascontiguousarray(array[begin : begin + _BLOCK]).data)
                self._forget_pages()
        return digest([content.hexdigest(), [entry.to_json() for entry in self.table.entries]])

    def entry_sizes(self) -> np.ndarray:
        """int64[L]: tokens of each table entry."""
        return np.diff(self.table.arrays()[1])

    def save(self, path: Path) -> None:
        """Write the file; arrays may be memory-mapped, and are then never in memory as a whole."""
        items = pa.StructArray.from_arrays([pa.array(self.cuts), pa.array(self.entries)], fields=list(_ITEM))
        offsets = pa.array(np.ascontiguousarray(self.offsets))
        rows = pa.LargeListArray.from_arrays(offsets, items)
        header = {
            "version": FORMAT_VERSION,
            "materialized": self.materialized,
            "fingerprint": self.fingerprint,
            "table": [entry.to_json() for entry in self.table.entries],
            "info": self.info,
        }
        schema = pa.schema([pa.field("reflections", rows.type)], metadata={"srp": json.dumps(header)})
        with path.open("wb", buffering=0) as file:
            sink = pa.PythonFile(_BlockWriter(file, self._forget_pages), mode="w")
            with pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.record_batch([rows], schema=schema))

    def _forget_pages(self) -> None:
        """Let the system take back the pages of memory-mapped arrays that were read so far."""
        for array in (self.offsets, self.cuts, self.entries):
            if isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)

    @classmethod
    def load(cls, path: str | Path) -> "ReflectionSidecar":
        """Map the file; raises InputError when it is missing or not a sidecar."""
        header = read_header(path)
        try:
            with pa.memory_map(str(path)) as source:
                rows = pa.ipc.open_file(source).get_batch(0).column(0)
            if rows.type != _ROWS or rows.null_count or rows.values.null_count:
                raise ValueError(f"its column is {rows.type}, not {_ROWS} without nulls")
            rows.validate()
            table = ReflectionTable([Entry.from_json(entry) for entry in header["table"]])
            offsets = rows.offsets.to_numpy()
            cuts, entries = (rows.values.field(i).to_numpy() for i in (0, 1))
            materialized, info, fingerprint = header["materialized"], header["info"], header["fingerprint"]
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        return cls(offsets, cuts, entries, table, materialized, info, fingerprint)


def _damaged(path: str | Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a reflection sidecar, or damaged ({error})")


def read_header(path: str | Path) -> dict[str, Any]:
    """What a sidecar says of itself: `materialized`, `fingerprint`, `table` and `info`.

    Raises:
        InputError: when it is missing or not a sidecar.
    """
    try:
        with pa.memory_map(str(path)) as source:
            header: dict[str, Any] = orjson.loads(pa.ipc.open_file(source).schema.metadata[b"srp"])
        version = header.get("version")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a sidecar is written by preprocess_with_reflections.py") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: sidecar version {version}, this release reads {FORMAT_VERSION}")
    return header


def describe_shard(prefix: str | Path) -> dict[str, str]:
    """The shard at `prefix`, as a sidecar's `info["shard"]` names the one it was made for: equal for copies."""
    shard = Path(prefix)
    return {"name": shard.name, "bin": file_fingerprint(bin_path(shard)), "idx": file_fingerprint(idx_path(shard))}


class _BlockWriter(io.RawIOBase):
    """Writes to `file` in blocks, with a call of `after` behind each."""

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
