"""Made-up text with the word frequencies of natural language, any amount of it."""

import numpy as np
import pyarrow as pa


def make_words(rng: np.random.Generator, n: int) -> np.ndarray:
    """n made-up words, the common ones short."""
    syllables = np.array([a + v + b for a in "bcdfghlmnprst" for v in "aeiou" for b in ("", "n", "r", "st")])
    lengths = 1 + np.minimum(rng.poisson(np.log10(np.arange(n) + 1) / 2), 4)
    return np.array(["".join(rng.choice(syllables, k)) for k in lengths])


def make_segments(rng: np.random.Generator, words: np.ndarray, n: int, length: int) -> pa.LargeStringArray:
    """n segments of `length` words in sentences."""
    weights = 1 / (np.arange(len(words)) + 2.7)
    drawn = rng.choice(words, (n, length), p=weights / weights.sum())
    drawn[:, ::12] = np.char.capitalize(drawn[:, ::12])
    drawn[:, 11::12] = np.char.add(drawn[:, 11::12], ".")
    drawn[:, 5::24] = np.char.add(drawn[:, 5::24], ",")
    return pa.array([" ".join(row) + ".\n" for row in drawn.tolist()], pa.large_string())
