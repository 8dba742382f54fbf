"""Write hints for a store: where a Safe segment follows a Safe one, a hint leads from one to the other.

A segment that is not Safe gets no hint, nor does the one before it: a hint must not lead to what the
warning is about. A file of hints is the unit of work, as a part is for verdicts; within it every
reply is journalled, so a killed run pays twice only for the replies in flight.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.corpus_job.failures import DEFAULT_MAX_FAILURE_RATE
from megatron_srp.annotation.corpus_job.part_texts import read_documents
from megatron_srp.annotation.engines.http_client import RequestFailed
from megatron_srp.annotation.store.hints import FOLDER, HintStore, HintWriter, Replies, clean_hint, hintable
from megatron_srp.annotation.store.part import write_table
from megatron_srp.annotation.store.store import AnnotationStore, Part, PartSummary, read_part
from megatron_srp.annotation.store.writers import WriterLock
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import GuardError, UsageError
from megatron_srp.files import file_fingerprint
from megatron_srp.remote.remote_file import InputFile, each_file


class Pair(NamedTuple):
    """Two segments that follow each other: index of the first in its part, and their texts."""

    segment: int
    this: str
    following: str


@dataclass(slots=True)
class HintJob:
    """Fills the `hints` folder of a store.

    Attributes:
        store: with verdicts on all files of the job.
        max_failure_rate: share of pairs that may get no reply; a higher share in a part stops the job.
        counts: of this run: hints written, and replies dropped, by reason.
    """

    files: InputFiles
    store: AnnotationStore
    writer: HintWriter
    key: str = "text"
    max_failure_rate: float = DEFAULT_MAX_FAILURE_RATE
    counts: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Write what is missing.

        Raises:
            UsageError: when files have no verdicts yet, or its hints were made with other settings.
            GuardError: when the endpoint fails. Replies are kept, as for any error.
        """
        fingerprints: list[str] = each_file(file_fingerprint, self.files.all)
        for file, fingerprint in zip(self.files.all, fingerprints, strict=True):
            if self.store.missing(self.key, fingerprint):
                raise UsageError(f"{self.store.folder} has no verdicts for all of {file}; finish annotating it first")
        verdicts = {f"verdicts by {name}": value for name, value in self.store.settings.items()}
        hints = HintStore.create(self.store.folder / FOLDER, self.writer.settings | verdicts)
        with WriterLock(hints.folder, fingerprints, self.key, self.files.partition or Partition()):
            for own in self.files.own_parts:
                fingerprint = fingerprints[own.number]
                for summary in self.store.summaries(self.key, fingerprint):
                    made = hints.part_path(self.key, fingerprint, summary.first).exists()
                    if own.contains(summary.first) and not made:
                        self._write(self.files.all[own.number], fingerprint, summary, hints)

    def _write(self, file: InputFile, fingerprint: str, summary: PartSummary, hints: HintStore) -> None:
        part = read_part(summary.path)
        replies = Replies(hints.replies_path(self.key, fingerprint, summary.first))
        try:
            pairs = [pair for pair in _pairs(file, self.key, summary, part) if pair.segment not in replies.known]
            failed = self.writer.client.run(self._ask(pairs, replies))
        finally:
            replies.close()
        self.counts["pairs without a reply"] += len(failed)
        if len(failed) > self.max_failure_rate * max(len(replies.known) + len(failed), 1):
            raise GuardError(
                f"{len(failed):,} pairs of segments of {file} got no reply, more than --max-failure-rate "
                f"{self.max_failure_rate:g}, the first: {failed[0]}; the others are kept: remove the cause, then "
                "rerun the same command"
            )
        write_table(hints.part_path(self.key, fingerprint, summary.first), self._table(part, replies.known))
        replies.path.unlink()

    async def _ask(self, pairs: list[Pair], replies: Replies) -> list[str]:
        """Ask for the hints of all pairs; returns why some got no reply."""
        failed: list[str] = []
        waiting = iter(pairs)

        async def work() -> None:
            for pair in waiting:
                try:
                    replies.add(pair.segment, await self.writer.ask(pair.this, pair.following))
                except RequestFailed as error:
                    failed.append(str(error))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.writer.client.limits.concurrency):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return failed

    def _table(self, part: Part, replies: dict[int, str]) -> pa.Table:
        hints: list[str | None] = [None] * len(part.codes)
        for segment, reply in replies.items():
            hint, problem = clean_hint(reply)
            self.counts[f"replies dropped: {problem}" if problem else "hints"] += 1
            hints[segment] = hint or None
        offsets = pa.array(part.offsets.astype(np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(hints, pa.string()))
        return pa.table({"row": pa.array(part.rows), "hints": lists})


def _pairs(file: InputFile, key: str, summary: PartSummary, part: Part) -> Iterator[Pair]:
    wanted = hintable(part)
    for document in read_documents(file, key, summary, part):
        for i, (this, following) in enumerate(zip(document.segments, document.segments[1:], strict=False)):
            if wanted[document.first + i]:
                yield Pair(document.first + i, this, following)
