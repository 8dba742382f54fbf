"""A batch of documents as flat arrays, and the segments they are cut into.

Ragged arrays are stored as Arrow and Awkward do: one flat array and `offsets int64[N+1]`, where row i
is `flat[offsets[i]:offsets[i+1]]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from megatron_srp.corpus import _text
from megatron_srp.segmentation import ABBREVIATIONS, BYTES_PER_WORD, check_max_words
from megatron_srp.unicode_classes import character_classes

_ABBREVIATIONS = "".join(f"{word}\n" for word in sorted(ABBREVIATIONS))


@dataclass(frozen=True, slots=True)
class TextBatch:
    """N documents: `text` uint8[B] is their UTF-8, concatenated; `offsets` int64[N+1]."""

    text: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> "TextBatch":
        offsets = np.empty(len(texts) + 1, np.int64)
        text = _text.pack(list(texts), offsets)
        return cls(np.frombuffer(text, np.uint8), offsets)

    @classmethod
    def from_arrow(cls, array: pa.LargeStringArray) -> "TextBatch":
        """Shares the array's memory where the array begins at the start of its buffers."""
        _, offsets, text = array.buffers()
        at = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        data = np.frombuffer(text, np.uint8) if text is not None else np.empty(0, np.uint8)
        return cls(data[at[0] : at[-1]], at - at[0] if at[0] else at)

    def to_arrow(self) -> pa.LargeStringArray:
        return strings(self.text, self.offsets)

    def __getitem__(self, i: int) -> str:
        return self.text[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """S segments of N documents: `ends` int64[S] are byte offsets into the batch's text (each segment
    begins where the last one ended), `offsets` int64[N+1] says which belong to which document."""

    ends: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def texts(self, batch: TextBatch) -> pa.LargeStringArray:
        """The text of each segment, sharing the batch's memory."""
        return strings(batch.text, np.concatenate([[0], self.ends]))


def strings(text: np.ndarray, offsets: np.ndarray) -> pa.LargeStringArray:
    """An Arrow string array over `text` uint8[B] cut at `offsets` int64[N+1], without a copy."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64: all integers of the ranges [starts[i], starts[i] + sizes[i]), back to back."""
    return np.arange(int(sizes.sum())) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def segment_batch(batch: TextBatch, max_words: int) -> SegmentBatch:
    """Cut every document as `segmentation.segment_text` defines it."""
    offsets = np.zeros(len(batch) + 1, np.int64)
    max_bytes = BYTES_PER_WORD * check_max_words(max_words)
    classes = character_classes()
    ends = _text.segment(batch.text, batch.offsets, max_words, max_bytes, _ABBREVIATIONS, classes, offsets)
    return SegmentBatch(np.frombuffer(ends, np.int64), offsets)


def text_hashes(batch: TextBatch) -> np.ndarray:
    """uint64[N]: XXH3 of each document's UTF-8."""
    view = memoryview(batch.text)
    at = batch.offsets.tolist()
    hashes = (xxhash.xxh3_64_intdigest(view[at[i] : at[i + 1]]) for i in range(len(batch)))
    return np.fromiter(hashes, np.uint64, len(batch))


def segment_ends_in_chars(batch: TextBatch, segments: SegmentBatch) -> np.ndarray:
    """int32[S]: the character of its document at which each segment ends."""
    counts = np.empty(len(segments), np.int64)
    _text.count_chars(batch.text, np.concatenate([[0], segments.ends]), counts)
    running = np.concatenate([[0], np.cumsum(counts)])
    before = np.repeat(running[segments.offsets[:-1]], np.diff(segments.offsets))
    return (running[1:] - before).astype(np.int32)


def invalid_utf8(strings: pa.LargeStringArray) -> list[int]:
    """Which of the strings are not UTF-8: not all JSON lines and Parquet files were checked before."""
    try:
        strings.validate(full=True)
        return []
    except pa.ArrowInvalid:
        values = strings.cast(pa.large_binary()).to_pylist()
        return [i for i, value in enumerate(values) if value is not None and not _is_utf8(value)]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
