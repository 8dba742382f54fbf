"""Classify a corpus once: input files in, an annotation store out.

Batches are classified on a few threads and written in the order of the input, a part at a time. A part is the
unit of work: after a kill, parts that were not written are classified again, and no others.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.watch import watches
from megatron_srp.annotation.classify_segments import SegmentVerdicts, classify_segments
from megatron_srp.annotation.corpus_job.chunks import Piece, read_pieces
from megatron_srp.annotation.corpus_job.failures import FailureLog
from megatron_srp.annotation.corpus_job.rejudge import Choose, failed_segments, rejudge, segments_from
from megatron_srp.annotation.store.disagreements import FOLDER as DISAGREEMENTS
from megatron_srp.annotation.store.disagreements import write_disagreements
from megatron_srp.annotation.store.part import PartSummary
from megatron_srp.annotation.store.settling import Settling, inner_counts
from megatron_srp.annotation.store.store import THRESHOLD, AnnotationStore, Part, Span, first_row, write_part
from megatron_srp.annotation.store.writers import WriterLock
from megatron_srp.corpus.batch import segment_batch, segment_ends_in_chars, text_hashes
from megatron_srp.corpus.contexts import contexts_of
from megatron_srp.corpus.file_parts import FilePart
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.corpus.partitions import Partition
from megatron_srp.corpus.readers import InputBatch
from megatron_srp.files import file_fingerprint
from megatron_srp.ordered_map import ordered_map, thread_pool
from megatron_srp.remote.remote_file import each_file
from megatron_srp.terminal.progress import Progress

Classified = tuple[Part, SegmentVerdicts]


@dataclass(slots=True)
class Annotator:
    """Fills a store with a guard's verdicts on every segment of this run's files.

    Attributes:
        chunk_documents: number of documents per part.
        workers: number of batches classified at once; one more is kept ready.
        failures: of this run; too many of them stop it.
        report: called after every batch.
        errors: one line for every bad row that was skipped.
        own: the rows that are this run's.
    """

    files: InputFiles
    store: AnnotationStore
    guard: Guard
    max_words: int
    key: str = "text"
    chunk_documents: int = 20_000
    skip_errors: bool = False
    workers: int = 1
    failures: FailureLog = field(default_factory=FailureLog)
    report: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda line: None
    errors: list[str] = field(default_factory=list)
    own: list[FilePart] = field(init=False)
    progress: Progress = field(init=False)
    fingerprints: list[str] = field(init=False)
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.fingerprints = each_file(file_fingerprint, self.files.all)
        self.sizes = [file.stat().st_size for file in self.files.all]
        self.own = self.files.own_parts
        self.progress = Progress(len(self.own), self.files.own_size)

    def run(self, retry_failed: bool = False) -> None:
        """Classify what has no verdicts yet; with `retry_failed` also what failed in an earlier run.

        Raises:
            UsageError: when another run is writing the same.
            GuardError: when too many segments get no verdict. Finished parts are kept, as for any error.
        """
        with WriterLock(self.store.folder, self.fingerprints, self.key, self.files.partition or Partition()) as lock:
            if lock.warning:
                self.warn(lock.warning)
            self._sweep()
            self._apply_threshold()
            if retry_failed:
                self._retry()
            self._watch_earlier()
            self._classify_missing()
        self.failures.check_at_end()
        for watch in watches(self.guard):
            watch.check_at_end()

    def _sweep(self) -> None:
        """Remove temporary files that killed writers left for this run's files."""
        for part in self.own:
            for folder in (self.store.folder, self.store.folder / DISAGREEMENTS):
                for path in (folder / self.key / self.fingerprints[part.number]).glob("*.tmp"):
                    if part.contains(first_row(path)):  # another run may be writing other parts of the file
                        path.unlink(missing_ok=True)

    def _classify_missing(self) -> None:
        with thread_pool(self.workers) as pool:
            for done, own in enumerate(self.own):
                self.progress.file = done
                self._classify_part(pool, own)
            self.progress.file = len(self.own)

    def _classify_part(self, pool: Executor, own: FilePart) -> None:
        parts: list[Classified] = []
        before = self.progress.consumed
        if not self._missing(own):
            self.progress.resumed += own.size
        for piece, classified in ordered_map(pool, self._classify, self._missing_pieces(own), self.workers + 1):
            self.progress.consumed = before + max(piece.batch.consumed - own.offset, 0)
            self._count(piece.batch, classified[0])
            parts.append(classified)
            if piece.closes:
                self._write(own.number, piece, parts)
                parts = []
        self.progress.consumed = before + own.size

    def _missing(self, own: FilePart) -> list[Span]:
        """The rows that have no verdicts yet."""
        spans = self.store.missing(self.key, self.fingerprints[own.number])
        return [cut for span in spans if (cut := span.within(own.start, own.stop))]

    def _missing_pieces(self, own: FilePart) -> Iterator[Piece]:
        """Documents that have no verdicts yet, in order."""
        file = self.files.all[own.number]
        for span in self._missing(own):
            yield from read_pieces(file, own.number, self.key, span, self.chunk_documents, self.skip_errors)

    def _classify(self, piece: Piece) -> Classified:
        batch = piece.batch
        text = batch.texts[self.key]
        segments = segment_batch(text, self.max_words)
        words = self.guard.context_words
        contexts = contexts_of(text, segments, words) if words else None
        verdicts = classify_segments(self.guard, segments.texts(text), contexts)
        ends = segment_ends_in_chars(text, segments)
        part = Part(
            rows=batch.rows,
            hashes=text_hashes(text),
            offsets=segments.offsets,
            ends=ends,
            codes=verdicts.codes,
            labels=verdicts.labels,
            scores=verdicts.scores,
            end=batch.end,
            failures=verdicts.failures,
            settling=verdicts.settling,
        )
        return part, verdicts

    def _count(self, batch: InputBatch, part: Part) -> None:
        self.errors += batch.errors
        self.progress.skipped += len(batch.errors)
        self.progress.documents += len(batch.rows)
        self.progress.bytes += len(batch.texts[self.key].text)
        self.progress.segments += len(part.codes)
        for number, label in enumerate(part.labels):
            name, count = str(label.verdict), int((part.codes == number).sum())
            self.progress.verdicts[name] = self.progress.verdicts.get(name, 0) + count
        self.failures.add(self.files.all[batch.file], part)
        self.report(self.progress)

    def _write(self, number: int, piece: Piece, classified: list[Classified]) -> None:
        fingerprint = self.fingerprints[number]
        part = join_parts([part for part, _ in classified], piece.last)
        # The part comes last: where it exists, everything about its chunk does.
        write_disagreements(self.store.folder, self.key, fingerprint, piece.first, self.guard, classified)
        write_part(self.store.part_path(self.key, fingerprint, piece.first), part)

    def _retry(self) -> None:
        for own in self.own:
            for part in self._rejudge(own, failed_segments):
                self.failures.add(self.files.all[own.number], part)

    def _apply_threshold(self) -> None:
        """Judge again what a cascade's front settled from its threshold on: it was higher in an earlier run."""
        threshold = self.guard.settings.get(THRESHOLD)
        if threshold is None:
            return
        for own in self.own:
            for part in self._rejudge(own, segments_from(threshold)):
                self.failures.add(self.files.all[own.number], part)

    def _rejudge(self, own: FilePart, choose: Choose) -> Iterator[Part]:
        return rejudge(self._summaries(own), self.guard, self.files.all[own.number], self.key, choose)

    def _summaries(self, own: FilePart) -> list[PartSummary]:
        found = self.store.summaries(self.key, self.fingerprints[own.number])
        return [summary for summary in found if own.contains(summary.first)]

    def summaries(self) -> list[PartSummary]:
        """All parts of the store that begin in this run's rows."""
        return [summary for own in self.own for summary in self._summaries(own)]

    def _watch_earlier(self) -> None:
        """Count what earlier runs settled, so that the audit continues from there."""
        counts = self.settled_counts()
        for watch in watches(self.guard):
            watch.restart(counts)
            counts = inner_counts(counts)

    def settled_counts(self) -> Counter[str]:
        """Numbers of segments by stage and verdict (`store.settling`) of all parts of this run."""
        total: Counter[str] = Counter()
        for summary in self.summaries():
            total.update(summary.settled)
        return total


def join_parts(parts: list[Part], last: bool = False) -> Part:
    """The documents of `parts` as one part."""
    labels = list(dict.fromkeys(label for part in parts for label in part.labels))
    starts = np.cumsum([0, *(len(part.codes) for part in parts)]).tolist()
    codes = []
    for part in parts:
        numbers = np.array([*(labels.index(label) for label in part.labels), -1], np.int64)
        codes.append(numbers[part.codes])  # FAILED is -1, and selects the last entry, which is -1
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Part(
        rows=np.concatenate([part.rows for part in parts]),
        hashes=np.concatenate([part.hashes for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ends=np.concatenate([part.ends for part in parts]),
        codes=np.concatenate(codes),
        labels=labels,
        scores=np.concatenate([part.scores for part in parts]),
        end=parts[-1].end,
        failures={
            start + i: why for start, part in zip(starts, parts, strict=False) for i, why in part.failures.items()
        },
        last=last,
        settling=Settling.join([part.settling for part in parts]),
    )
