"""The features of the `small` front: hashed words, pairs of adjacent words, and groups of four characters.

A text is folded first: ASCII letters to lower case, white space to single spaces. A word is a run of ASCII letters and
digits and of bytes beyond ASCII. Each feature is a bucket of a table of 2**bits weights, chosen by a multiplicative
hash (Knuth, The Art of Computer Programming, volume 3, section 6.4); words are hashed with FNV-1a. Feature hashing:
Weinberger et al. 2009, arXiv:0902.2206.

`text_features` is the definition; `batch_features` and `score_batch` are the same in C.
"""

import re
from itertools import pairwise

import numpy as np

from megatron_srp.annotation.fronts import _front
from megatron_srp.corpus.batch import TextBatch

GROUP = 4  # characters (bytes) of a group
_FNV_BASIS, _FNV_PRIME = 2166136261, 16777619
_PAIR, _CHARACTERS, _GOLDEN = 0x9E3779B1, 0x5BD1E995, 2654435769
_WORD = re.compile(rb"[a-z0-9\x80-\xff]+")
_SPACE = re.compile(rb"[\t-\r ]+")
_MASK = 0xFFFFFFFF


def text_features(text: str, bits: int) -> list[int]:
    """The buckets (0 to 2**bits - 1) of one text's features, a repeated feature as often as it occurs, in no order."""
    folded = _SPACE.sub(b" ", text.encode() + b" ").translate(_LOWER)
    words = [_fnv(word) for word in _WORD.findall(folded)]
    pairs = [(a * _PAIR + b) & _MASK for a, b in pairwise(words) if a]
    groups = [int.from_bytes(folded[i : i + GROUP]) ^ _CHARACTERS for i in range(len(folded) - GROUP + 1)]
    return [_bucket(x, bits) for x in (*words, *pairs, *groups)]


_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))


def _fnv(word: bytes) -> int:
    found = _FNV_BASIS
    for byte in word:
        found = (found ^ byte) * _FNV_PRIME & _MASK
    return found


def _bucket(x: int, bits: int) -> int:
    return ((x ^ x >> 15) * _GOLDEN & _MASK) >> (32 - bits)


def batch_features(batch: TextBatch, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32[F] features of all N texts, and int64[N+1], which of them belong to each."""
    offsets = np.empty(len(batch) + 1, np.int64)
    found = _front.features(batch.text, batch.offsets, bits, offsets)
    return np.frombuffer(found, np.uint32), offsets


def score_batch(batch: TextBatch, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[N] sums of the int8[2**bits] `weights` of each text's features, and int64[N] how many it has.

    Integers, so that a sum is the same on every machine."""
    sums, counts = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
    bits = len(weights).bit_length() - 1
    _front.score(batch.text, batch.offsets, weights.view(np.uint8), bits, sums, counts)
    return sums, counts
