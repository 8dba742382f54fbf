"""The data job: input files in, shards out, on all cores, resumable."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srp.corpus.readers import InputBatch, file_fingerprint, read_batches
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder, sum_counts
from megatron_srp.data.progress import Progress
from megatron_srp.data.reflect import ReflectedBatch, Source
from megatron_srp.errors import InputError

_SHOWN_ERRORS = 10


def describe_inputs(files: list[Path]) -> list[dict[str, str]]:
    """What a run is recorded to have read: names and fingerprints."""
    return [{"file": file.name, "fingerprint": file_fingerprint(file)} for file in files]


@dataclass(slots=True)
class Preprocessor:
    """Runs one builder over the files.

    Attributes:
        files: input files, in order.
        builder: of the output.
        workers: threads that cut and tokenise, beside the one that reads and writes.
        chunk_documents: commit to disk after so many documents; the result does not depend on it.
        skip_errors: leave bad rows out and count them.
        report: called after every batch.
        warn: called with a line of text for the user.
    """

    files: list[Path]
    builder: ReflectionIndexedDatasetBuilder
    workers: int = 1
    chunk_documents: int = 100_000
    skip_errors: bool = False
    report: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda line: print(f"warning: {line}", file=sys.stderr)
    skipped: int = 0
    errors: list[str] = field(default_factory=list)
    _progress: Progress = field(init=False)
    _sizes: list[int] = field(init=False)
    _sampled: set[int] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        """Read, reflect and write everything, and finish. Returns the manifest."""
        if self.builder.finished:
            return self.builder.finished
        self._sizes = [file.stat().st_size for file in self.files]
        self._progress = Progress(len(self.files), sum(self._sizes))
        start = self._resume()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                self._write(self._reflected(pool, start))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                self.builder.close()
                raise
        return self.builder.finalize({"inputs": describe_inputs(self.files), "skipped_rows": self.skipped})

    def _resume(self) -> tuple[int, int]:
        position = self.builder.position
        if not position:
            return (0, 0)
        self.skipped = position["skipped"]
        self._progress.skipped = self.skipped
        self._progress.consumed = self._progress.resumed = position.get("consumed", 0)
        return position["file"], position["row"]

    def _reflected(
        self, pool: ThreadPoolExecutor, start: tuple[int, int]
    ) -> Iterator[tuple[InputBatch, dict[str, ReflectedBatch]]]:
        """Batches in the order of the input, a few of them in the making at any time."""
        ahead: deque[tuple[InputBatch, dict[str, Future[ReflectedBatch]]]] = deque()
        batches = read_batches(self.files, self.builder.keys, start, self.skip_errors, self.chunk_documents)
        for batch in batches:
            self._sample(batch)
            source = Source(batch.file, batch.rows)
            futures = {key: pool.submit(self.builder.reflector, source, text) for key, text in batch.texts.items()}
            ahead.append((batch, futures))
            while len(ahead) > self.workers + 1:
                yield _result(ahead.popleft())
        while ahead:
            yield _result(ahead.popleft())

    def _write(self, batches: Iterator[tuple[InputBatch, dict[str, ReflectedBatch]]]) -> None:
        since_commit = 0
        for batch, reflected in batches:
            for key, result in reflected.items():
                self.builder.write(key, result)
            self.skipped += len(batch.errors)
            self.errors += batch.errors[: _SHOWN_ERRORS - len(self.errors)]
            since_commit += len(batch.rows)
            self._count(batch, reflected)
            if since_commit >= self.chunk_documents:
                self.builder.commit(self._position(batch))
                since_commit = 0

    def _position(self, batch: InputBatch) -> dict[str, int]:
        """Where a run goes on that finds everything up to `batch` written."""
        consumed = self._progress.consumed
        return {"file": batch.file, "row": batch.end, "skipped": self.skipped, "consumed": consumed}

    def _count(self, batch: InputBatch, reflected: dict[str, ReflectedBatch]) -> None:
        progress = self._progress
        progress.file, progress.skipped = batch.file, self.skipped
        progress.consumed = sum(self._sizes[: batch.file]) + batch.consumed
        progress.documents += len(batch.rows)
        progress.bytes += sum(len(text.text) for text in batch.texts.values())
        progress.tokens += sum(len(result.tokens) for result in reflected.values())
        progress.verdicts = sum_counts([writer.verdict_counts() for writer in self.builder.writers.values()])[
            "verdicts"
        ]
        self.report(progress)

    def _sample(self, batch: InputBatch) -> None:
        """Hold the first documents of every file against the reference tokenizer."""
        encoder = self.builder.reflector.encoder
        if batch.file in self._sampled or not len(batch.rows) or encoder.reason:
            return
        self._sampled.add(batch.file)
        for text in batch.texts.values():
            row = encoder.differs(text, sample=16 if batch.file < 8 else 2)
            if row is not None:
                encoder.distrust("it gave other ids than the reference tokenizer")
                self.warn(
                    f"{self.files[batch.file]}, row {batch.rows[row] + 1}: gigatoken differs from the "
                    "reference tokenizer; all documents go to the reference from here on, which is exact but "
                    "far slower"
                )
                return


def _result(
    pending: tuple[InputBatch, dict[str, Future[ReflectedBatch]]],
) -> tuple[InputBatch, dict[str, ReflectedBatch]]:
    batch, futures = pending
    return batch, {key: future.result() for key, future in futures.items()}


def require_documents(manifest: dict[str, Any]) -> None:
    """Raises InputError for shards without any document, which no trainer can read."""
    if not manifest["counts"]["documents"]:
        raise InputError("the input has no document with text; nothing to train on was written")
