"""From cuts in the text to cuts between its tokens.

The document is tokenized once and whole, so its tokens are what they would be without reflections. A
cut moves to the first token boundary at or after it: where a token spans the cut (Llama-3's tokenizer
joins a full stop to the line breaks after it), the token stays with the segment in which it begins.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from megatron_srp.corpus.batch import SegmentBatch, TextBatch
from megatron_srp.data import _tokens
from megatron_srp.tokenization import TextTokenizer, TokenBatch


def align_document(ends: Sequence[int], token_bytes: Sequence[int]) -> list[int]:
    """The definition: for each segment end in bytes, how many tokens are before it.

    Args:
        ends: ascending byte offsets, the last at the end of the document.
        token_bytes: how many bytes each token of the document stands for, in order.
    """
    token_ends = list(accumulate(token_bytes))
    cuts = [0 if end <= 0 else bisect_left(token_ends, end) + 1 for end in ends]
    return [*(min(cut, len(token_ends)) for cut in cuts[:-1]), len(token_ends)] if cuts else []


def align_batch(batch: TextBatch, segments: SegmentBatch, tokens: TokenBatch, tokenizer: TextTokenizer) -> np.ndarray:
    """int32[S]: for each segment, how many tokens of its document are before its end.

    Documents whose tokens do not add up to their bytes, because the tokenizer normalises the text
    first, are aligned by the offsets that the tokenizer itself reports.
    """
    cuts = np.empty(len(segments), np.int32)
    exact = np.empty(len(batch), np.uint8)
    _tokens.align(
        tokens.tokens,
        tokens.offsets,
        tokenizer.token_bytes,
        batch.offsets,
        segments.ends,
        segments.offsets,
        tokenizer.extra_bytes,
        cuts,
        exact,
    )
    for i in np.flatnonzero((exact == 0) & (np.diff(tokens.offsets) > 0)).tolist():
        own = slice(segments.offsets[i], segments.offsets[i + 1])
        _, starts = tokenizer.encode_with_starts(batch[i])
        cuts[own] = [bisect_left(starts, end) for end in segments.ends[own] - batch.offsets[i]]
        cuts[own.stop - 1] = len(starts)
    return cuts
