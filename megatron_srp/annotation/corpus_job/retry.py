"""Classify again the segments of a store that got no verdict, and only those."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.classify_segments import classify_segments
from megatron_srp.annotation.corpus_job.part_texts import read_documents
from megatron_srp.annotation.store.store import AnnotationStore, Part, read_part, write_part


def retry_failed(store: AnnotationStore, guard: Guard, file: Path, key: str, fingerprint: str) -> Iterator[Part]:
    """Replace the parts of an input file that have failures by parts with the new verdicts; yields the new parts."""
    for summary in store.summaries(key, fingerprint):
        if summary.failed:
            part = read_part(summary.path)
            documents = read_documents(file, key, summary, part)
            texts = {d.first + i: text for d in documents for i, text in enumerate(d.segments)}
            failed = {segment: texts[segment] for segment in sorted(part.failures)}
            verdicts = classify_segments(guard, pa.array(failed.values(), pa.large_string()))
            rows = np.array(list(failed), np.int64)
            labels = list(dict.fromkeys([*part.labels, *verdicts.labels]))
            numbers = np.array([*(labels.index(label) for label in verdicts.labels), -1], np.int64)
            codes, scores = part.codes.copy(), part.scores.copy()
            codes[rows], scores[rows] = numbers[verdicts.codes], verdicts.scores
            failures = {int(rows[i]): reason for i, reason in verdicts.failures.items()}
            part = replace(part, codes=codes, scores=scores, labels=labels, failures=failures)
            write_part(summary.path, part)
            yield part
