"""Exact ids at gigatoken's speed, with the reference tokenizer wherever that is not certain."""

import numpy as np

from megatron_srp.corpus import _text
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization.base import TextTokenizer, TokenBatch
from megatron_srp.tokenization.gigatoken_pool import GigatokenPool
from megatron_srp.tokenization.unicode_tables import unsettled_characters, wide_numerals


class FastEncoder:
    """Encodes batches as `tokenizer.encode` would, on the calling thread.

    gigatoken does the work where it can run the tokenizer; documents with characters or tokens that it may
    treat differently go to the reference. `reason` says why when it cannot run it, and `distrust` switches
    it off after a difference is found.

    Args:
        tokenizer: the reference.
        threads: how many will encode at once.
    """

    def __init__(self, tokenizer: TextTokenizer, threads: int = 1) -> None:
        self.tokenizer = tokenizer
        self.reason: str | None = None
        self.distrusted = False
        spec = tokenizer.fast_json()
        if spec is None:
            self.reason = "gigatoken has no form of it"
            return
        try:
            self._pool = GigatokenPool(spec, threads)
        except ValueError as error:
            self.reason = f"gigatoken refuses it: {error}"
        except ImportError:
            self.reason = "gigatoken is not installed"
            return
        characters = unsettled_characters() if tokenizer.has_unicode_rules else np.zeros(0x110000, bool)
        if tokenizer.splits_digits:
            characters = characters | wide_numerals()
        self._characters = np.packbits(characters, bitorder="little").tobytes() if characters.any() else None
        self._ids = np.array(sorted(tokenizer.unsettled_ids()), np.uint32)

    def distrust(self, reason: str) -> None:
        self.reason, self.distrusted = reason, True

    def encode_batch(self, batch: TextBatch) -> TokenBatch:
        """The ids of every document of the batch, equal to `tokenizer.encode` of each."""
        if self.reason is not None:
            return TokenBatch.from_lists(self.tokenizer.encode_lists([batch[i] for i in range(len(batch))]))
        tokens = self._pool.encode(batch)
        return self._replace(batch, tokens, self._unsettled(batch, tokens))

    def _unsettled(self, batch: TextBatch, tokens: TokenBatch) -> np.ndarray:
        """The documents that only the reference is certain to encode exactly."""
        found = np.zeros(len(batch), np.uint8)
        if self._characters is not None:
            _text.find_characters(batch.text, batch.offsets, self._characters, found)
        # Nearly always they are beyond the vocabulary, and no token is.
        if len(self._ids) and tokens.tokens.max(initial=0) >= self._ids[0]:
            at = np.flatnonzero(np.isin(tokens.tokens, self._ids))
            found[np.searchsorted(tokens.offsets, at, side="right") - 1] = 1
        return np.flatnonzero(found)

    def _replace(self, batch: TextBatch, tokens: TokenBatch, rows: np.ndarray) -> TokenBatch:
        """`tokens` with the reference's ids for the documents `rows`."""
        if not len(rows):
            return tokens
        parts = [tokens[i] for i in range(len(tokens))]
        for row in rows:
            parts[row] = np.array(self.tokenizer.encode(batch[row]), np.uint32)
        return TokenBatch.from_arrays(parts)

    def differs(self, batch: TextBatch, sample: int = 16) -> int | None:
        """The first of `sample` documents, spread over the batch, whose ids are not the reference's."""
        rows = np.unique(np.linspace(0, len(batch) - 1, min(sample, len(batch))).astype(int))
        picked = TextBatch.from_texts([batch[row] for row in rows])
        tokens = self.encode_batch(picked)
        for i, row in enumerate(rows):
            if tokens[i].tolist() != self.tokenizer.encode(picked[i]):
                return int(row)
        return None
