"""From the tokens of shards back to texts, and from positions in a text to positions between its tokens."""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megatron_srp.corpus.batch import SegmentBatch, TextBatch
from megatron_srp.tokenization import TextTokenizer

_STRAY_BYTES = re.compile("[\udc80-\udcff]")  # what Python's surrogateescape turns invalid UTF-8 bytes into


@dataclass(frozen=True, slots=True)
class Spans:
    """Texts in a run of T tokens: a document of the shard, or the parts of one between end-of-document ids.

    Attributes:
        begins, ends: int64[N], the tokens of each text.
        before_eod: bool[N], whether an end-of-document id follows it.
        texts: N texts; bytes that are not valid UTF-8 are replaced by as many control characters.
        token_ends: int64[T], where in the bytes of all tokens each token ends.
        left_out: int64[N], bytes of tokens, up to the end of each text, that are in no text (dummy prefixes).
    """

    begins: np.ndarray
    ends: np.ndarray
    before_eod: np.ndarray
    texts: TextBatch
    token_ends: np.ndarray
    left_out: np.ndarray

    def cuts(self, segments: SegmentBatch) -> np.ndarray:
        """int64[S]: how many of the T tokens are before the end of each segment: up to the first token
        boundary at or after it, as `align_document` defines it, and all tokens of the text for its last segment."""
        counts = np.diff(segments.offsets)
        in_tokens = segments.ends + np.repeat(self.left_out, counts)
        cuts = np.searchsorted(self.token_ends, in_tokens, "left") + 1
        cuts[segments.offsets[1:][counts > 0] - 1] = self.ends[counts > 0]
        return cuts


class Detokenizer:
    """Looks the bytes of tokens up in a table.

    Args:
        tokenizer: of the shards; raises UsageError where its tokens do not stand for bytes of text.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.eod, self.vocab_size = tokenizer.require_eos(), tokenizer.vocab_size
        self._dummy_prefix = tokenizer.extra_bytes > 0
        texts = tokenizer.token_text()
        texts[self.eod] = b""
        self._texts = pa.array(texts, pa.large_binary())

    def __call__(self, tokens: np.ndarray, documents: np.ndarray) -> Spans:
        """The texts of `tokens` uint32[T], all below `vocab_size`, whose documents begin at `documents`
        int64[D], the first at 0."""
        begins, ends, before_eod = self._bounds(tokens, documents)
        _, offsets, data = self._texts.take(pa.array(tokens)).buffers()
        at = np.frombuffer(offsets, np.int64)[: len(tokens) + 1] if len(tokens) else np.zeros(1, np.int64)
        text = np.frombuffer(data, np.uint8)[: at[-1]] if at[-1] else np.empty(0, np.uint8)
        edges = np.concatenate([[0], at[ends]])
        left_out = np.zeros(len(begins), np.int64)
        if self._dummy_prefix:
            prefixed = edges[:-1] < edges[1:]
            prefixed[prefixed] = text[edges[:-1][prefixed]] == ord(" ")
            left_out = np.cumsum(prefixed)
            text = np.delete(text, edges[:-1][prefixed])
            edges = edges - np.concatenate([[0], left_out])
        return Spans(begins, ends, before_eod, _valid(TextBatch(text, edges)), at[1:], left_out)

    def _bounds(self, tokens: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First tokens of all texts, the tokens after their last, and whether that one is an eod."""
        eods = np.flatnonzero(tokens == self.eod)
        begins = np.union1d(documents, eods + 1)
        begins = begins[begins < len(tokens)]
        starts = np.append(documents, len(tokens))
        document_ends = starts[np.searchsorted(starts, begins, "right")]
        eod_ends = np.append(eods, len(tokens))[np.searchsorted(eods, begins)]
        return begins, np.minimum(document_ends, eod_ends), eod_ends < document_ends


def _valid(batch: TextBatch) -> TextBatch:
    """The batch with every byte that is not part of valid UTF-8 in its text replaced, so that sizes do not change."""
    array = batch.to_arrow()
    try:
        array.validate(full=True)
        return batch
    except pa.ArrowInvalid:
        texts = [_replace_stray(value) for value in array.cast(pa.large_binary()).to_pylist()]
        return TextBatch(np.frombuffer(b"".join(texts), np.uint8), batch.offsets)


def _replace_stray(text: bytes) -> bytes:
    return _STRAY_BYTES.sub("\x1a", text.decode(errors="surrogateescape")).encode()
