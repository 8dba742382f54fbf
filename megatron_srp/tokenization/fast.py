"""Exact ids at gigatoken's speed, with the reference tokenizer wherever that is not certain."""

import threading
import unicodedata
from functools import cache
from typing import Any

import numpy as np

from megatron_srp import _kernels
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization.base import TextTokenizer, TokenBatch

_MANY_THREADS = 4


@cache
def _wide_numerals() -> bytes:
    """A bit per code point beyond ASCII that a Digits pre-tokenizer splits off, as the kernel reads it."""
    bits = [c > 0x7F and unicodedata.category(chr(c)).startswith("N") for c in range(0x110000)]
    return np.packbits(bits, bitorder="little").tobytes()


class FastEncoder:
    """Encodes batches as `tokenizer.encode` would, on the calling thread.

    gigatoken does the work where it can run the tokenizer. `reason` says why not when it cannot, and
    `distrust` switches it off after a difference was found.

    Args:
        tokenizer: the reference.
        threads: how many will encode at once.
    """

    def __init__(self, tokenizer: TextTokenizer, threads: int = 1) -> None:
        self.tokenizer = tokenizer
        self.reason: str | None = None
        self._split_digits = getattr(tokenizer, "splits_digits", False)
        self._json = tokenizer.fast_json()
        self._thread = threading.local()  # an instance per thread: its cache takes a lock
        # For SentencePiece gigatoken keeps its cache from call to call only where it encodes one document
        # at a time, which takes a third of the time but holds the GIL: a few threads gain, many lose.
        self._one_by_one = threads < _MANY_THREADS
        if self._json is None:
            self.reason = "gigatoken has no form of it"
        else:
            self._gigatoken()

    def distrust(self, reason: str) -> None:
        self.reason = reason

    def _gigatoken(self) -> Any:
        if not hasattr(self._thread, "tokenizer"):
            import gigatoken

            try:
                self._thread.tokenizer = gigatoken.Tokenizer.from_json(self._json)
            except Exception as error:  # it raises what its Rust code meets
                self.reason = f"gigatoken refuses it: {error}"
                return None
        return self._thread.tokenizer

    def encode_batch(self, batch: TextBatch) -> TokenBatch:
        """The ids of every document of the batch, equal to `tokenizer.encode` of each."""
        tokenizer = self._gigatoken() if self.reason is None else None
        if tokenizer is None:
            return TokenBatch.from_lists(self.tokenizer.encode_lists([batch[i] for i in range(len(batch))]))
        if self._one_by_one and type(tokenizer.backend).__name__ == "SentencePieceTokenizer":
            return _one_by_one(tokenizer, batch)
        ragged = tokenizer.encode_batch(_as_awkward(batch), parallel=False).layout
        offsets = np.asarray(ragged.offsets.data, dtype=np.int64)
        tokens = TokenBatch(np.asarray(ragged.content.data)[offsets[0] : offsets[-1]], offsets - offsets[0])
        return self._replace(batch, tokens, self._uncertain(batch)) if self._split_digits else tokens

    def _uncertain(self, batch: TextBatch) -> np.ndarray:
        found = np.zeros(len(batch), np.uint8)
        _kernels.find_characters(batch.text, batch.offsets, _wide_numerals(), found)
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


def _one_by_one(tokenizer: Any, batch: TextBatch) -> TokenBatch:
    text, at = batch.text.tobytes(), batch.offsets.tolist()
    parts = [tokenizer.encode(text[at[i] : at[i + 1]]) for i in range(len(batch))]
    return TokenBatch.from_arrays(parts)


def _as_awkward(batch: TextBatch) -> Any:
    """The batch as gigatoken takes it without a copy."""
    import awkward as ak

    layout = ak.contents.ListOffsetArray(
        ak.index.Index64(batch.offsets),
        ak.contents.NumpyArray(batch.text, parameters={"__array__": "char"}),
        parameters={"__array__": "string"},
    )
    return ak.Array(layout)
