"""From one block of a shard to sidecar contents: detokenize, cut, label, and find the cuts in its tokens.

The text is never tokenized again. A text is what is between end-of-document ids, so that a sequence into
which several documents were packed is cut as those documents would be.
"""

from dataclasses import dataclass

import numpy as np

from megatron_srp.corpus.batch import segment_batch
from megatron_srp.data.detokenize import Detokenizer
from megatron_srp.data.interleave import interleave_batch
from megatron_srp.data.policies.policy import Policy
from megatron_srp.data.policies.treat import PieceEncoder, TokenSegments, by_sequence, treat
from megatron_srp.data.preprocess.shard_blocks import ShardBlock
from megatron_srp.data.reflect import EntryEncoder, Labeler, ReflectedBatch, Source
from megatron_srp.data.reflection_table import ReflectionTable
from megatron_srp.tokenization import TokenBatch


@dataclass(frozen=True, slots=True)
class ShardReflector:
    """Turns blocks of plain tokens into batches of reflections, in any order and on any thread.

    Attributes:
        detokenizer: of the shard's tokenizer.
        policy: what becomes of the segments.
        entries, pieces: encode the reflections; `entries` where the policy is `srp`.
        max_words: maximum words per segment.
        dtype: of the tokens with reflections; None leaves them out, for a sidecar.
    """

    detokenizer: Detokenizer
    labeler: Labeler
    policy: Policy
    entries: EntryEncoder
    pieces: PieceEncoder
    max_words: int
    dtype: np.dtype | None

    def __call__(self, block: ShardBlock) -> ReflectedBatch:
        spans = self.detokenizer(block.tokens, block.documents)
        segments = segment_batch(spans.texts, self.max_words)
        source = Source(block.shard, block.first + np.searchsorted(block.ends, spans.begins, "right"))
        some = np.diff(segments.offsets) > 0
        before_eod = segments.offsets[1:][some & spans.before_eod] - 1
        table = ReflectionTable()
        labels, hints = self.labeler(source, spans.texts, segments), None
        cuts = spans.cuts(segments)
        if self.policy.is_srp:
            entries, hints = self.entries(*labels, before_eod, table)
            local, counts = by_sequence(cuts, block.ends)
        else:
            of = TokenSegments(block.tokens, spans.begins, spans.before_eod, cuts, segments.offsets, block.ends)
            pieces = treat(self.pieces, of, *labels, table)
            local, entries, counts = pieces.cuts, pieces.entries, pieces.counts
        starts = np.concatenate([[0], block.ends])
        lengths, tokens = np.diff(starts).astype(np.int32), np.empty(0, self.dtype)
        if self.dtype is not None:
            offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            plain = TokenBatch(block.tokens, starts)
            tokens, lengths = interleave_batch(plain, local, entries, offsets, table, None, self.dtype, hints)
        return ReflectedBatch(
            tokens=tokens,
            lengths=lengths,
            plain_tokens=len(block.tokens),
            cuts=local,
            entries=entries,
            counts=counts,
            table=table,
            empty=0,
            hints=hints,
        )
