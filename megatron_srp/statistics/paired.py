"""Intervals, agreement and paired tests, without SciPy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, nan

import numpy as np

from megatron_srp.statistics import wilson as intervals

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, mean or score with its 95% interval; `n` observations. NaN where there are no observations."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int) -> Estimate:
    """A share and its Wilson score interval."""
    if not n:
        return Estimate(nan, nan, nan, 0)
    return Estimate(hits / n, *intervals.wilson(hits / n, n), n)


def bootstrap(values: np.ndarray, score: Callable[[np.ndarray], float], seed: int = 0) -> Estimate:
    """A score and its percentile bootstrap interval.

    Args:
        values: [N, ...] observations; rows are drawn.
        score: function of such an array; draws for which it is NaN are left out.
    """
    if not len(values):
        return Estimate(nan, nan, nan, 0)
    drawn = _drawn(values, score, seed)
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (nan, nan)
    return Estimate(float(score(values)), float(low), float(high), len(values))


def _drawn(values: np.ndarray, score: Callable[[np.ndarray], float], seed: int) -> np.ndarray:
    """float[R] scores of that many resamples of the rows, without NaN."""
    rng, n = np.random.default_rng(seed), len(values)
    drawn = np.array([score(values[rng.integers(n, size=n)]) for _ in range(RESAMPLES)])
    return drawn[~np.isnan(drawn)]


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else nan


def harmonic(pairs: np.ndarray) -> float:
    """Harmonic mean of the accuracies on safe and on unsafe texts, from [N, 2] (harmful, right) rows."""
    harmful, right = pairs[:, 0].astype(bool), pairs[:, 1].astype(float)
    if harmful.all() or not harmful.any():
        return nan
    safe, unsafe = right[~harmful].mean(), right[harmful].mean()
    return float(2 * safe * unsafe / (safe + unsafe)) if safe + unsafe else 0.0


def kappa(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Cohen's kappa of two raters; NaN where chance alone would make them always agree."""
    n = len(a)
    if not n:
        return nan
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    yes_a, yes_b = sum(a) / n, sum(b) / n
    chance = yes_a * yes_b + (1 - yes_a) * (1 - yes_b)
    return (observed - chance) / (1 - chance) if chance < 1 else nan


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value for paired outcomes having the same rate (binomial over the pairs that differ)."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(comb(n, i) for i in range(least + 1)) / 2**n) if n else 1.0


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, score: Callable[[np.ndarray], float], seed: int = 0
) -> tuple[Estimate, float]:
    """The difference `score(b) - score(a)` with its interval, and a two-sided p-value: twice the share of
    draws on the other side of zero. Rows of `a` and `b` belong together and are drawn together."""
    both = np.stack([a, b], axis=1)

    def difference(rows: np.ndarray) -> float:
        return score(rows[:, 1]) - score(rows[:, 0])

    drawn = _drawn(both, difference, seed)
    if not len(drawn):
        return Estimate(difference(both), nan, nan, len(both)), nan
    low, high = np.quantile(drawn, [0.025, 0.975])
    other_side = min((drawn <= 0).mean(), (drawn >= 0).mean())
    p = min(1.0, 2 * max(float(other_side), 1 / len(drawn)))
    return Estimate(difference(both), float(low), float(high), len(both)), p
