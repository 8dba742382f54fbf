"""What gigatoken remembers is bounded, and the ids stay the same."""

import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.tokenization.gigatoken_pool import GigatokenPool
from megatron_srp.tokenization.unicode_tables import wide_numerals


def distinct_words(seed: int, count: int) -> TextBatch:
    words = np.random.default_rng(seed).integers(97, 123, (count, 9), dtype=np.uint8)
    words[:, 8] = 32
    return TextBatch(words.ravel(), np.array([0, words.size // 18 * 9, words.size]))


ENCODE = """
import sys
import numpy as np
from megatron_srp.tokenization import gigatoken_pool, load_tokenizer
from tests.unit.test_gigatoken_pool import distinct_words

gigatoken_pool._GROWTH, gigatoken_pool._GROWTH_PER_THREAD, gigatoken_pool._LEAST_TEXT = 24 << 20, 0, 1 << 20
tokenizer = load_tokenizer(*sys.argv[1:])
pool = gigatoken_pool.GigatokenPool(tokenizer.fast_json())
before, most = gigatoken_pool.resident_bytes(), 0
for seed in range(24):
    batch = distinct_words(seed, 50_000)
    tokens = pool.encode(batch)
    most = max(most, gigatoken_pool.resident_bytes() - before)
assert tokens[1].tolist() == tokenizer.encode(batch[1])
print(pool.dropped, most)
"""


def test_a_pool_that_grew_starts_anew(tokenizer_models):
    kind, model = tokenizer_models["gpt2"]
    # In a process of its own: what other tests have freed would be used before the process grows.
    command = [sys.executable, "-c", ENCODE, kind, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    dropped, most = map(int, done.stdout.split())
    assert dropped >= 2
    # 1.2 million distinct words of 90 bytes would take 108 MB; a batch and its tokens take some too.
    assert most < 80 << 20


def test_the_numerals_are_unicodes():
    expected = [c > 0x7F and unicodedata.category(chr(c)).startswith("N") for c in range(0x110000)]
    assert wide_numerals().tolist() == expected


def test_two_threads_share_an_instance(tokenizer_models):
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    pool, batches = GigatokenPool(tokenizer.fast_json(), threads=4), [distinct_words(seed, 2000) for seed in range(16)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(pool.encode, batches))
    assert 1 <= len(pool._idle) <= 2
    for batch, tokens in zip(batches, found, strict=True):
        assert tokens[1].tolist() == tokenizer.encode(batch[1])


def test_a_tokenizer_that_gigatoken_refuses():
    with pytest.raises(ValueError, match="model"):
        GigatokenPool("{}")
