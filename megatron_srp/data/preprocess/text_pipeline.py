"""The data job: input files in, shards out, on all cores, resumable."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from megatron_srp.corpus.file_parts import FilePart
from megatron_srp.corpus.readers import InputBatch, RawBatch, read_raw, unreadable
from megatron_srp.data.audited_labels import finish_audit, resume_audit, settled_at
from megatron_srp.data.builder import ShardBuilder
from megatron_srp.data.reflect import ReflectedBatch, Source
from megatron_srp.errors import InputError, UsageError
from megatron_srp.ordered_map import ordered_map, thread_pool
from megatron_srp.remote.remote_file import InputFile, RemoteFile, describe_file, each_file
from megatron_srp.terminal.progress import Progress

WHOLE = (0, None)  # all rows of a file
_SHOWN_ERRORS = 10
_OTHER_IDS = "its ids differ from the reference tokenizer's"


def describe_inputs(
    files: list[InputFile], rows: Sequence[tuple[int, int | None]] | None = None
) -> list[dict[str, Any]]:
    """The record of a run's input: names and fingerprints, of remote files their places and versions too.

    Args:
        rows: [start, stop) of each file, recorded where they are not the whole.

    Raises:
        InputError: for a file that cannot be read.
    """
    try:
        records: list[dict[str, Any]] = each_file(describe_file, files)
    except OSError as error:
        raise unreadable(error) from None
    for record, span in zip(records, rows or [WHOLE] * len(files), strict=True):
        if span != WHOLE:
            record["rows"] = list(span)
    return records


@dataclass(slots=True)
class Preprocessor:
    """Runs one builder over the files.

    Attributes:
        files: input files, in order.
        builder: of the output.
            parts: the rows of each file; by default all.
        workers: threads that cut and tokenize, in addition to the one that reads and writes.
            chunk_documents: documents between commits to disk; the result does not depend on it.
        skip_errors: skip bad rows and count them.
        report: called after every batch.
        warn: called with a line of text for the user.
    """

    files: list[InputFile]
    builder: ShardBuilder
    parts: Sequence[FilePart] | None = None
    workers: int = 1
    chunk_documents: int = 100_000
    skip_errors: bool = False
    report: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda line: print(f"warning: {line}", file=sys.stderr)
    skipped: int = 0
    errors: list[str] = field(default_factory=list)
    _progress: Progress = field(init=False)
    _parts: list[FilePart] = field(init=False)
    _sampled: set[int] = field(default_factory=set)
    _ends: list[int] = field(init=False)  # the first row of each file that is not read yet

    def run(self) -> dict[str, Any]:
        """Read, reflect and write everything, and finish. Returns the manifest."""
        whole = [FilePart(i, 0, None, 0, file.stat().st_size) for i, file in enumerate(self.files)]
        self._parts = list(self.parts or whole)
        self._progress = Progress(len(self.files), sum(part.size for part in self._parts))
        self._ends = [part.start for part in self._parts]
        try:
            start = self._resume()
            with thread_pool(self.workers) as pool:
                self._write(self._reflected(pool, start))
            settled = finish_audit(self.builder.plan.labeler)
            inputs = self._unchanged_inputs()
            return self.builder.finalize({"inputs": inputs, "skipped_rows": self.skipped, **settled})
        except BaseException:
            self.builder.close()
            raise

    @property
    def _rows(self) -> list[tuple[int, int | None]]:
        return [(part.start, part.stop) for part in self._parts]

    def _unchanged_inputs(self) -> list[dict[str, Any]]:
        """The record of the files, with the rows read; raises InputError where one has changed since the start."""
        now = describe_inputs(self.files, self._rows)
        for file, before, after in zip(self.files, self.builder.settings.get("inputs", now), now, strict=True):
            if before != after:
                raise InputError(f"{file} changed while it was read; pass --overwrite to start over")
            if not isinstance(file, RemoteFile) and file.stat().st_mtime > self.builder.started:
                self.warn(f"{file} was modified since this run began, though its size, beginning and end are the same")
        counts = [end - part.start for end, part in zip(self._ends, self._parts, strict=True)]
        records = zip(self.files, now, counts, strict=True)
        return [record | _commit(file) | {"num_rows": count} for file, record, count in records]

    def _resume(self) -> tuple[int, int]:
        position = self.builder.position
        if not position:
            return (0, 0)
        self.skipped, self._ends = position["skipped"], position.get("ends", self._ends)
        self._progress.skipped = self.skipped
        if (position.get("verdicts") or "") != self.builder.identity(position["file"], position["row"]):
            raise UsageError(
                f"{self.builder.plan.prefix}: the verdicts of the documents that were written before this run was "
                "stopped have changed in the annotation store; restore them, or pass --overwrite to start over"
            )
        resume_audit(self.builder.plan.labeler, position)
        self._progress.consumed = self._progress.resumed = position.get("consumed", 0)
        if position["reference_only"]:
            self.builder.use_reference_tokenizer(_OTHER_IDS)
        if position["row"]:  # sampled at its beginning, as the result must not depend on where a run stopped
            self._sampled.add(position["file"])
        return position["file"], position["row"]

    def _reflected(
        self, pool: Executor, start: tuple[int, int]
    ) -> Iterator[tuple[InputBatch, dict[str, ReflectedBatch]]]:
        """Batches in the order of the input, encoded by gigatoken up to the first one for which it differs."""
        keys, most = self.builder.plan.keys, self.chunk_documents
        batches = read_raw(self.files, keys, start, self.skip_errors, most, self._rows)
        differing: list[RawBatch] = []

        def agreeing() -> Iterator[RawBatch]:
            for batch in batches:
                if batch.file not in self._sampled and not self.builder.fallback_reason:
                    batch = _parsed(batch.parse())
                    if self._differs(batch.parse()):
                        differing.append(batch)
                        return
                yield batch

        yield from self._mapped(pool, agreeing())
        if differing:  # only now: earlier batches are gigatoken's, however fast the threads are
            self.builder.use_reference_tokenizer(_OTHER_IDS)
            yield from self._mapped(pool, chain(differing, batches))

    def _mapped(
        self, pool: Executor, batches: Iterator[RawBatch]
    ) -> Iterator[tuple[InputBatch, dict[str, ReflectedBatch]]]:
        return (result for _, result in ordered_map(pool, self._reflect, batches, self.workers + 1))

    def _reflect(self, raw: RawBatch) -> tuple[InputBatch, dict[str, ReflectedBatch]]:
        batch = raw.parse()
        source = Source(batch.file, batch.rows)
        return batch, {key: self.builder.reflect(source, text) for key, text in batch.texts.items()}

    def _write(self, batches: Iterator[tuple[InputBatch, dict[str, ReflectedBatch]]]) -> None:
        since_commit = 0
        for batch, reflected in batches:
            for key, result in reflected.items():
                self.builder.write(key, result)
            self.skipped += len(batch.errors)
            self._ends[batch.file] = batch.end
            self.errors += batch.errors[: _SHOWN_ERRORS - len(self.errors)]
            since_commit += len(batch.rows)
            self._count(batch, reflected)
            if since_commit >= self.chunk_documents:
                self.builder.commit(self._position(batch))
                since_commit = 0

    def _position(self, batch: InputBatch) -> dict[str, Any]:
        """Where a run resumes when everything up to `batch` is written."""
        return {
            "file": batch.file,
            "row": batch.end,
            "ends": self._ends,
            "skipped": self.skipped,
            "consumed": self._progress.consumed,
            "verdicts": self.builder.identity(batch.file, batch.end),
            "reference_only": self.builder.distrusted,
            **settled_at(self.builder.plan.labeler, batch.file, batch.end),
        }

    def _count(self, batch: InputBatch, reflected: dict[str, ReflectedBatch]) -> None:
        progress = self._progress
        progress.file, progress.skipped = batch.file, self.skipped
        before = sum(part.size for part in self._parts[: batch.file])
        progress.consumed = before + max(batch.consumed - self._parts[batch.file].offset, 0)
        progress.documents += len(batch.rows)
        progress.bytes += sum(len(text.text) for text in batch.texts.values())
        progress.tokens += sum(len(result.tokens) for result in reflected.values())
        progress.verdicts = self.builder.verdict_counts()
        self.report(progress)

    def _differs(self, batch: InputBatch) -> bool:
        """Whether gigatoken and the reference tokenizer differ on a file's first documents."""
        if not len(batch.rows):
            return False
        self._sampled.add(batch.file)
        for text in batch.texts.values():
            row = self.builder.first_difference(text, 16 if batch.file < 8 else 2)
            if row is not None:
                self.warn(
                    f"{self.files[batch.file]}, row {batch.rows[row] + 1}: gigatoken differs from the "
                    "reference tokenizer; all documents go to the reference from here on, which is exact but "
                    "far slower"
                )
                return True
        return False


def _parsed(batch: InputBatch) -> RawBatch:
    return RawBatch(batch.file, lambda: batch)


def _commit(file: InputFile) -> dict[str, str]:
    """The commit on the hub that a file was read from. Not part of the settings: another commit may have left it as it
    was, and then a run resumes."""
    return {"commit": file.commit} if isinstance(file, RemoteFile) and file.commit else {}


def require_documents(manifest: dict[str, Any]) -> None:
    """Raises InputError for shards without any document, which no trainer can read."""
    if not manifest["counts"]["documents"]:
        raise InputError("the input has no document with text; there is nothing to train on")
