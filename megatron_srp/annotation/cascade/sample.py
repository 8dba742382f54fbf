"""A random sample of a corpus's segments: the same for the same files and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from megatron_srp.corpus.batch import segment_batch
from megatron_srp.corpus.readers import read_batches
from megatron_srp.remote.remote_file import InputFile


@dataclass(slots=True)
class SegmentSample:
    """Keeps the segments with the lowest random numbers (bottom-k sampling): uniform and without replacement, whatever
    the size of the corpus.

    Args:
        size: the most segments to keep.

    Attributes:
        seen: segments so far.
    """

    size: int
    seed: int = 0
    seen: int = 0
    _texts: pa.LargeStringArray = field(default_factory=lambda: pa.array([], pa.large_string()))
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, segments: pa.LargeStringArray) -> None:
        numbers = _mixed(np.arange(self.seen, self.seen + len(segments), dtype=np.uint64), self.seed)
        self.seen += len(segments)
        if len(self._numbers) == self.size:
            low = np.flatnonzero(numbers < self._numbers.max())
            segments, numbers = segments.take(pa.array(low)), numbers[low]
        numbers = np.concatenate([self._numbers, numbers])
        kept = np.sort(np.argsort(numbers, kind="stable")[: self.size])
        self._texts = pa.concat_arrays([self._texts, segments]).take(pa.array(kept))
        self._numbers = numbers[kept]

    @property
    def texts(self) -> pa.LargeStringArray:
        """The sample, in the order of the corpus."""
        return self._texts


def sample_segments(files: Sequence[InputFile], key: str, max_words: int, size: int, seed: int = 0) -> SegmentSample:
    """A sample of all segments of the files; one pass over them."""
    sample = SegmentSample(size, seed)
    for batch in read_batches(list(files), [key]):
        text = batch.texts[key]
        sample.add(segment_batch(text, max_words).texts(text))
    return sample


def _mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """uint64[N] random-looking numbers: SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (numbers + np.uint64(seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return x ^ x >> np.uint64(31)
