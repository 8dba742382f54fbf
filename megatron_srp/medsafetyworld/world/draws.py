"""Random draws that are the same with every release of numpy.

numpy promises its bit generators' streams and SeedSequence, not what `Generator` makes of them; so all
draws are made here, from raw 64-bit numbers.
"""

import zlib

import numpy as np


class Draws:
    """An independent stream for every path: `Draws(seed, "shard", 3)` depends on nothing drawn elsewhere."""

    def __init__(self, seed: int, *path: str | int) -> None:
        keys = [zlib.crc32(step.encode()) if isinstance(step, str) else step for step in path]
        self._bits = np.random.Philox(np.random.SeedSequence([seed, *keys]))

    def _raw(self, n: int) -> np.ndarray:
        return self._bits.random_raw(n)

    def below(self, bound: int, n: int) -> np.ndarray:
        """int64[n], each from 0 to bound - 1; `bound` is below 2**32."""
        return (((self._raw(n) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)

    def chance(self, probability: float, n: int) -> np.ndarray:
        """bool[n], each True with that probability."""
        return (self._raw(n) >> np.uint64(11)) * 2.0**-53 < probability

    def permutation(self, n: int) -> np.ndarray:
        """int64[n]: 0 to n - 1 in random order."""
        return np.argsort(self._raw(n), kind="stable")
