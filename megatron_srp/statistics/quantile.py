"""A quantile of a sample and its 95% interval, from order statistics: no assumption on the distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log

_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of `n` values. An end of the interval is infinite where the sample is too small to bound it."""

    value: float
    low: float
    high: float
    n: int


def quantile(values: Sequence[float], share: float) -> Quantile:
    """The smallest of the values that at most a share of `1 - share` exceed, with its interval.

    Args:
        values: at least one.
        share: above 0, below 1; 0.99 for the 99th percentile.
    """
    ordered, n = sorted(values), len(values)
    below = _binomial(n, share)  # how many of n values are below the true quantile
    tail, low, high = 0.0, -inf, inf
    for k in range(n):
        tail += below[k]
        if tail <= _TAIL:
            low = ordered[k]
    tail = 0.0
    for k in range(n, 0, -1):
        tail += below[k]
        if tail > _TAIL:
            break
        high = ordered[k - 1]
    return Quantile(ordered[n - 1 - int((1 - share) * n + 1e-9)], low, high, n)


def _binomial(n: int, p: float) -> list[float]:
    """Probabilities of 0 to n successes."""
    total = lgamma(n + 1)
    return [exp(total - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p)) for k in range(n + 1)]
