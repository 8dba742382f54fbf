"""Judge again some segments of a store, and only those: the ones without a verdict, or those that a cascade's front
settled and its new threshold would not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.classify_segments import classify_segments
from megatron_srp.annotation.corpus_job.part_texts import read_documents
from megatron_srp.annotation.store.part import PartSummary
from megatron_srp.annotation.store.store import Part, read_part, write_part
from megatron_srp.corpus.contexts import last_words
from megatron_srp.remote.remote_file import InputFile

Choose = Callable[[PartSummary], tuple[Part, Sequence[int]] | None]


def failed_segments(summary: PartSummary) -> tuple[Part, Sequence[int]] | None:
    """A part, and its segments without a verdict; None without any."""
    if not summary.failed:
        return None
    part = read_part(summary.path)
    return part, sorted(part.failures)


def segments_from(threshold: float) -> Choose:
    """Chooses the segments that a cascade's front settled although its probability of harm is at least `threshold`."""

    def choose(summary: PartSummary) -> tuple[Part, Sequence[int]] | None:
        if summary.highest_harm < threshold:
            return None
        part = read_part(summary.path)
        return None if part.settling is None else (part, part.settling.at_or_above(threshold).tolist())

    return choose


def rejudge(
    summaries: Sequence[PartSummary], guard: Guard, file: InputFile, key: str, choose: Choose
) -> Iterator[Part]:
    """Replace the parts of an input file that have chosen segments by parts with the new verdicts; yields these."""
    for summary in summaries:
        chosen = choose(summary)
        if chosen and chosen[1]:
            part = _with_new_verdicts(guard, file, key, summary, *chosen)
            write_part(summary.path, part)
            yield part


def _with_new_verdicts(
    guard: Guard, file: InputFile, key: str, summary: PartSummary, part: Part, segments: Sequence[int]
) -> Part:
    wanted, words = set(segments), guard.context_words
    texts, contexts = [], []
    for document in read_documents(file, key, summary, part):
        for i, text in enumerate(document.segments):
            if document.first + i in wanted:
                texts.append(text)
                contexts.append(last_words("".join(document.segments[:i]).encode(), words) if words else "")
    verdicts = classify_segments(guard, pa.array(texts, pa.large_string()), contexts if words else None)
    rows = np.array(segments, np.int64)
    labels = list(dict.fromkeys([*part.labels, *verdicts.labels]))
    numbers = np.array([*(labels.index(label) for label in verdicts.labels), -1], np.int64)
    codes, scores = part.codes.copy(), part.scores.copy()
    codes[rows], scores[rows] = numbers[verdicts.codes], verdicts.scores
    failures = {i: why for i, why in part.failures.items() if i not in set(segments)}
    failures |= {int(rows[i]): reason for i, reason in verdicts.failures.items()}
    settling = part.settling and part.settling.with_changed(rows, verdicts.settling)
    return replace(part, codes=codes, scores=scores, labels=labels, failures=failures, settling=settling)
