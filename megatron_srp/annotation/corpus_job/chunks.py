"""The input of the annotator: batches of documents, grouped into the chunks that become parts of a store.

Where a chunk ends depends only on its first row and the file, so that a chunk that is made again, after a
kill or by another node, becomes the same part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_srp.annotation.store.store import Span
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.corpus.readers import InputBatch, read_batches
from megatron_srp.remote.remote_file import InputFile


@dataclass(frozen=True, slots=True)
class Piece:
    """One batch of a chunk.

    Attributes:
        first: the first row of the chunk.
        batch: its documents.
        closes: whether the chunk ends with it.
        last: whether the file does.
    """

    first: int
    batch: InputBatch
    closes: bool
    last: bool


def read_pieces(
    file: InputFile, number: int, key: str, span: Span, chunk_documents: int, skip_errors: bool = False
) -> Iterator[Piece]:
    """The documents of `span` of a file, at least one piece: an empty one where the file has no more."""
    first, size = span.start, 0
    batches = _within(span, read_batches([file], [key], (0, span.start), skip_errors, chunk_documents))
    batch = next(batches, None)
    if batch is None:
        none = InputBatch(number, np.empty(0, np.int64), span.start, {key: TextBatch.from_texts([])})
        yield Piece(first, none, closes=True, last=span.stop is None)
    while batch is not None:
        following = next(batches, None)
        batch.file = number
        size += len(batch.rows)
        closes = size >= chunk_documents or following is None
        if following is None and span.stop is not None:
            batch.end = span.stop
        yield Piece(first, batch, closes, last=following is None and span.stop is None)
        if closes:
            first, size = batch.end, 0
        batch = following


def _within(span: Span, batches: Iterator[InputBatch]) -> Iterator[InputBatch]:
    for batch in batches:
        if span.stop is None or batch.end <= span.stop:
            yield batch
        else:
            count = int(np.searchsorted(batch.rows, span.stop))
            texts = {key: _head(text, count) for key, text in batch.texts.items()}
            yield InputBatch(batch.file, batch.rows[:count], span.stop, texts, batch.errors, batch.consumed)
        if span.stop is not None and batch.end >= span.stop:
            return


def _head(batch: TextBatch, count: int) -> TextBatch:
    return TextBatch(batch.text[: batch.offsets[count]], batch.offsets[: count + 1])
