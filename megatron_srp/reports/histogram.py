"""Counts of whole numbers, collected block by block in constant memory."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_CLIP = 1 << 20  # from here on values share a count; the largest is kept separately
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(slots=True)
class Histogram:
    """How often each value occurred, exact below a million."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    total: int = 0
    largest: int = 0

    def add(self, values: np.ndarray) -> None:
        """Count `values`, non-negative whole numbers."""
        if not len(values):
            return
        counts = np.bincount(np.minimum(values, _CLIP), minlength=len(self.counts))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        self.total += int(values.sum(dtype=np.int64))
        self.largest = max(self.largest, int(values.max()))

    @property
    def number(self) -> int:
        return int(self.counts.sum())

    def quantiles(self, shares: np.ndarray) -> np.ndarray:
        """For each share q, the smallest value that at least q of all values do not exceed."""
        reached = np.cumsum(self.counts)
        places = np.searchsorted(reached, np.maximum(np.ceil(shares * reached[-1]), 1))
        return np.where(places >= _CLIP, self.largest, places)

    def bins(self, edges: np.ndarray) -> np.ndarray:
        """How many values are in each [edges[i], edges[i + 1])."""
        reached = np.concatenate([[0], np.cumsum(self.counts)])
        return np.diff(reached[np.minimum(edges, len(self.counts))])

    def to_json(self, scale: float = 1) -> dict[str, Any]:
        """Number, mean, quantiles and largest value, the values times `scale`."""
        number = self.number
        quantiles = self.quantiles(np.array(QUANTILES)) * scale if number else np.empty(0)
        return {
            "number": number,
            "mean": round(self.total * scale / number, 3) if number else None,
            "quantiles": {f"p{q * 100:g}": round(float(v), 3) for q, v in zip(QUANTILES, quantiles, strict=False)},
            "largest": round(self.largest * scale, 3),
        }
