"""The text before a segment, for guards that judge a segment in its context."""

import re

import numpy as np

from megatron_srp.corpus.batch import SegmentBatch, TextBatch
from megatron_srp.segmentation import BYTES_PER_WORD, WHITESPACE

_WORD = re.compile(f"[^{WHITESPACE}]+")


def last_words_begin(before: bytes, words: int) -> int:
    """The byte at which the last `words` words of a UTF-8 text begin, at most `BYTES_PER_WORD` bytes for each: text
    without spaces is a single word."""
    text = before[-BYTES_PER_WORD * words :].decode(errors="ignore")  # drops a character cut in two
    starts = [found.start() for found in _WORD.finditer(text)]
    return len(before) - len(text[starts[-words:][0] :].encode()) if starts else len(before)


def last_words(before: bytes, words: int) -> str:
    """These words."""
    return before[last_words_begin(before, words) :].decode().rstrip()


def contexts_of(batch: TextBatch, segments: SegmentBatch, words: int) -> list[str]:
    """For each segment, the `words` words of its document before it; "" for a document's first segment."""
    if not len(segments):
        return []
    starts = np.concatenate([[0], segments.ends[:-1]])
    documents = np.repeat(batch.offsets[:-1], np.diff(segments.offsets))
    begins = np.maximum(documents, starts - BYTES_PER_WORD * words)
    pairs = zip(begins.tolist(), starts.tolist(), strict=True)
    return [last_words(batch.text[begin:start].tobytes(), words) for begin, start in pairs]
