"""An unfinished shard: append-only streams in a work folder, truncated to the last commit on resume.

No file gets its final name before `finish`, and only the table of reflections is kept in memory, so a
shard of any size is written in a few megabytes of memory.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from megatron_srp.data.reflect import ReflectedBatch
from megatron_srp.data.reflection_table import Entry, HintIds, ReflectionTable
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, write_all, write_index
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError

STREAMS = {"bin": None, "lengths": np.int32, "cuts": np.int32, "entries": np.uint16, "counts": np.int32}
HINT_STREAMS = {"hint_offsets": np.int64, "hint_ids": np.int32}


def count_labels(entries: Iterable[tuple[Entry, int]]) -> dict[str, Any]:
    """How often each verdict and each category occurs, and hints if there are any, from the number of each
    reflection."""
    verdicts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    hints = 0
    for entry, times in entries:
        if entry.inside:  # a part of a segment
            continue
        hints += times * entry.hinted
        verdicts[entry.label.verdict] += times
        categories.update(dict.fromkeys(entry.label.categories, times))
    counts = {"verdicts": dict(sorted(verdicts.items())), "categories": dict(sorted(categories.items()))}
    return counts | ({"hints": hints} if hints else {})


class ShardWriter:
    """Writes one shard.

    Args:
        folder: the work folder; it exists.
        name: of the shard in it.
        dtype: of the tokens.
        state: what `commit` last returned, to resume from there; None for a new shard.
        hints: whether the form of the reflections has hints.

    Attributes:
        documents: int64[D+1], first sequence of each document; None where each sequence is one.
    """

    STREAMS: ClassVar[tuple[str, ...]] = tuple(STREAMS)
    documents: np.ndarray | None = None

    def __init__(
        self, folder: Path, name: str, dtype: np.dtype, state: dict[str, Any] | None = None, hints: bool = False
    ) -> None:
        self.folder, self.name, self.dtype, self.hints = folder, name, dtype, hints
        self.streams = (*self.STREAMS, *(HINT_STREAMS if hints else ()))
        state = state or {"sizes": dict.fromkeys(self.streams, 0), "table": [], "counts": {}, "entries": []}
        self.table = ReflectionTable([Entry.from_json(entry) for entry in state["table"]])
        self.entry_counts = Counter(dict(enumerate(state["entries"])))
        self.counts = Counter(state["counts"])
        self._files: dict[str, BinaryIO] = {}
        for stream in self.streams:
            self._files[stream] = self._open(stream, state["sizes"][stream])

    def _path(self, stream: str) -> Path:
        return self.folder / f"{self.name}.{stream}"

    def _open(self, stream: str, size: int) -> BinaryIO:
        path = self._path(stream)
        path.touch()
        if path.stat().st_size < size:
            raise InputError(f"{path} is shorter than its journal says; pass --overwrite to start over")
        file = path.open("r+b", buffering=0)
        file.truncate(size)
        file.seek(size)
        return file

    @property
    def tokens_file(self) -> BinaryIO:
        """The unfinished .bin, for tokens that are copied from file to file."""
        return self._files["bin"]

    def append(self, batch: ReflectedBatch) -> None:
        """Append the documents of `batch`."""
        numbers = self._merge(batch)
        arrays = {
            "bin": batch.tokens,
            "lengths": batch.lengths,
            "cuts": batch.cuts,
            "entries": numbers[batch.entries] if len(batch.entries) else batch.entries,
            "counts": batch.counts,
        }
        if self.hints:
            arrays |= self._hint_arrays(batch.hints)
        for stream in self.streams:
            write_all(self._files[stream], memoryview(np.ascontiguousarray(arrays[stream])))
        self.counts.update(
            documents=len(batch.lengths),
            empty_documents=batch.empty,
            segments=batch.reflections.num_segments(),
            plain_tokens=batch.plain_tokens,
            tokens=len(batch.tokens),
        )

    def _hint_arrays(self, hints: HintIds | None) -> dict[str, np.ndarray]:
        """The data to append to the stream of hints, whose offsets begin with 0."""
        assert hints is not None
        begin = self._files["hint_ids"].tell() // np.dtype(HINT_STREAMS["hint_ids"]).itemsize
        first = 1 if self._files["hint_offsets"].tell() else 0
        return {"hint_offsets": hints.offsets[first:] + begin, "hint_ids": hints.ids}

    def _merge(self, batch: ReflectedBatch) -> np.ndarray:
        """Indices of the batch's table entries in the shard's table, uint16, in order of appearance."""
        used, first, times = np.unique(batch.entries, return_index=True, return_counts=True)
        numbers = np.zeros(len(batch.table), np.uint16)
        for i in np.argsort(first):
            number = self.table.add(batch.table.entries[used[i]])
            numbers[used[i]] = number
            self.entry_counts[number] += int(times[i])
        return numbers

    def commit(self) -> dict[str, Any]:
        """Make everything appended so far durable; the result, as JSON, is where a resumed run continues."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {
            "sizes": {stream: file.tell() for stream, file in self._files.items()},
            "table": [entry.to_json() for entry in self.table.entries],
            "counts": dict(self.counts),
            "entries": [self.entry_counts[i] for i in range(len(self.table))],
        }

    def verdict_counts(self) -> dict[str, Any]:
        """How many segments have each verdict, each category, and a hint."""
        return count_labels((self.table.entries[number], times) for number, times in self.entry_counts.items())

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def finish(self, info: dict[str, Any], reflected: bool) -> dict[Path, Path]:
        """Write index and sidecar. Returns the finished files and the names they are to get."""
        self.commit()
        self.close()
        index = self.folder / f"{self.name}.idx"
        with index.open("wb") as file:
            write_index(file, self._map("lengths"), self.dtype, self.documents)
            os.fsync(file.fileno())
        final = {Path(self._path("bin").name): bin_path(self.name), Path(index.name): idx_path(self.name)}
        return final | (self._finish_sidecar(info, materialized=True) if reflected else {})

    def _finish_sidecar(self, info: dict[str, Any], materialized: bool) -> dict[Path, Path]:
        sidecar = self.folder / f"{self.name}.srp"
        offsets = np.zeros(len(self._map("counts")) + 1, np.int64)
        np.cumsum(self._map("counts"), out=offsets[1:])
        hints = None
        if self.hints:
            ends = self._map("hint_offsets")
            hints = HintIds(ends if len(ends) else np.zeros(1, np.int64), self._map("hint_ids"))
        arrays = offsets, self._map("cuts"), self._map("entries")
        ReflectionSidecar(*arrays, self.table, materialized, info, hints=hints).save(sidecar)
        with sidecar.open("rb") as file:
            os.fsync(file.fileno())
        return {Path(sidecar.name): sidecar_path(self.name)}

    def _map(self, stream: str) -> np.ndarray:
        path, dtype = self._path(stream), np.dtype((STREAMS | HINT_STREAMS)[stream])
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
