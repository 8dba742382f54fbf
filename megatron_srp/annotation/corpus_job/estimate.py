"""What a job will cost, from a sample of its corpus: `srp annotate --estimate`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.sample import SegmentSample
from megatron_srp.annotation.classify_segments import classify_segments
from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.corpus.contexts import contexts_of
from megatron_srp.corpus.readers import read_batches
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

_FILES, _BATCHES = 32, 16  # of about 4 MB each: a corpus of any size takes about a minute


@dataclass(frozen=True, slots=True)
class CorpusSample:
    """Random segments from the beginnings of a corpus's files, with the words before each where the guard is shown
    them, and about how many segments the corpus has."""

    texts: pa.LargeStringArray
    segments: int
    files: int
    contexts: pa.LargeStringArray | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a job.

    Attributes:
        corpus: its sample.
        asked: share of the segments that the (innermost) big guard judges: 1 without a cascade.
        rate: segments a second of that guard; `given` by the user, or measured here.
        tokens: of a segment, and of the words before it where it is shown them, for a chat guard.
    """

    corpus: CorpusSample
    asked: float
    rate: float
    given: bool
    tokens: float | None

    def describe(self) -> list[str]:
        """In lines."""
        hours = self.corpus.segments * self.asked / self.rate / 3600
        lines = [f"corpus: about {self.corpus.segments:,} segments, from the beginnings of {self.corpus.files:,} files"]
        if self.tokens is not None:
            before = "" if self.corpus.contexts is None else " with the words before it"
            lines.append(f"tokens per segment: {self.tokens:.1f}{before}, without the guard's prompt")
        if self.asked < 1:
            lines.append(f"settled without the last guard: {1 - self.asked:.1%} of {len(self.corpus.texts):,} segments")
        how = "as given" if self.given else "as measured here, start-up excluded"
        return [*lines, f"rate: {self.rate:,.1f} segments/s ({how})", f"cost: {hours:,.2f} hours on one such device"]


def sample_beginnings(
    files: Sequence[InputFile], key: str, max_words: int, size: int, context_words: int = 0
) -> CorpusSample:
    """A sample of `size` segments; raises InputError where there is none."""
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), _FILES)).astype(int))]
    sample, contexts, read = SegmentSample(size), SegmentSample(size), 0  # both keep the same numbers
    for file in chosen:
        consumed = 0
        for batch in islice(read_batches([file], [key]), _BATCHES):
            text = batch.texts[key]
            segments = segment_batch(text, max_words)
            sample.add(segments.texts(text))
            if context_words:
                contexts.add(pa.array(contexts_of(text, segments, context_words), pa.large_string()))
            consumed = batch.consumed
        read += consumed
    if not sample.seen:
        raise InputError("the input has no segment; pass --input with texts")
    whole = sum(file.stat().st_size for file in files)
    segments_in_all = round(sample.seen * whole / max(read, 1))
    return CorpusSample(sample.texts, segments_in_all, len(chosen), contexts.texts if context_words else None)


def estimate(guard: Guard, corpus: CorpusSample, rate: float | None = None) -> Estimate:
    """What `guard` takes for the corpus.

    Args:
        rate: segments a second of the big guard; measured by default.

    Raises:
        InputError: where a cascade's front settles all of the sample, and no rate is given.
    """
    texts, asked, last = corpus.texts, 1.0, guard
    while last.is_cascade:
        cascade: Any = last
        above = ~(cascade.front.harm_probabilities_array(texts) < cascade.threshold)
        share = float(above.mean()) if len(texts) else 0.0
        asked *= share + (1 - share) * cascade.audit
        texts, last = texts.filter(pa.array(above)), cascade.back
    given = rate is not None
    tokens = _tokens_per_segment(last, corpus)
    contexts = corpus.contexts and corpus.contexts.to_pylist()  # None for a cascade, which is shown none
    return Estimate(corpus, asked, rate if rate is not None else _measured(last, texts, contexts), given, tokens)


def _measured(guard: Guard, texts: pa.LargeStringArray, contexts: list[str] | None) -> float:
    if len(texts) < 2:
        raise InputError(
            f"the front settles all but {len(texts)} of the sample, too few to measure the guard after it; pass a "
            "larger --estimate, or --rate with its segments a second"
        )
    first = max(len(texts) // 8, 1)
    classify_segments(
        guard, texts[:first], contexts and contexts[:first]
    )  # kernels are compiled and memory is reserved
    started = time.perf_counter()
    classify_segments(guard, texts[first:], contexts and contexts[first:])
    return (len(texts) - first) / max(time.perf_counter() - started, 1e-9)


def _tokens_per_segment(guard: Any, corpus: CorpusSample) -> float | None:
    if (builder := getattr(guard, "builder", None)) is None:
        return None
    shown = [corpus.texts] if corpus.contexts is None else [corpus.texts, corpus.contexts]
    encoded = [builder.tokenizer.encode_texts(TextBatch.from_arrow(texts)) for texts in shown]
    return sum(float(tokens.offsets[-1]) for tokens in encoded) / len(corpus.texts)
