"""What gigatoken remembers is bounded, and the ids stay the same."""

import unicodedata

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization import fast, gigatoken_pool
from megatron_srp.tokenization.gigatoken_pool import GigatokenPool, resident_bytes


def distinct_words(seed: int, count: int) -> TextBatch:
    words = np.random.default_rng(seed).integers(97, 123, (count, 9), dtype=np.uint8)
    words[:, 8] = 32
    return TextBatch(words.ravel(), np.array([0, words.size // 18 * 9, words.size]))


def test_a_pool_that_grew_starts_anew(tokenizer, monkeypatch):
    monkeypatch.setattr(gigatoken_pool, "_GROWTH", 24 << 20)
    monkeypatch.setattr(gigatoken_pool, "_GROWTH_PER_THREAD", 0)
    monkeypatch.setattr(gigatoken_pool, "_LEAST_TEXT", 1 << 20)
    pool = GigatokenPool(tokenizer.fast_json())
    before, most = resident_bytes(), 0
    for seed in range(24):
        batch = distinct_words(seed, 50_000)
        tokens = pool.encode(batch)
        most = max(most, resident_bytes() - before)
    assert pool.dropped >= 2
    # 1.2 million distinct words of 90 bytes would take 108 MB; a batch and its tokens take some too.
    assert most < 80 << 20
    assert tokens[1].tolist() == tokenizer.encode(batch[1])


def test_there_are_no_numerals_beyond_those_looked_at():
    bits = np.unpackbits(np.frombuffer(fast._wide_numerals(), np.uint8), bitorder="little")
    assert bits.tolist() == [c > 0x7F and unicodedata.category(chr(c)).startswith("N") for c in range(0x110000)]


def test_a_tokenizer_that_gigatoken_refuses():
    with pytest.raises(ValueError, match="model"):
        GigatokenPool("{}")
