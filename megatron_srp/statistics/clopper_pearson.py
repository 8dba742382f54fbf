"""Exact one-sided bounds for a proportion: Clopper and Pearson, Biometrika 26 (1934), pages 404 to 413.

Whatever the true proportion is, the upper bound is below it with a probability of at most 1 - confidence, for any
number of observations; the same holds for the lower bound.
"""

from collections.abc import Callable
from math import ceil, exp, lgamma, log, log1p

import numpy as np

_STEPS = 60  # of bisection: 2**-60 is below a float's precision


def upper_bound(count: int, n: int, confidence: float) -> float:
    """The largest proportion p with P(Binomial(n, p) <= count) >= 1 - confidence; 1 without observations."""
    if count >= n:
        return 1.0
    logs = _log_coefficients(count, n)
    return _bisect(lambda p: _at_most(logs, n, p) > 1 - confidence)


def lower_bound(count: int, n: int, confidence: float) -> float:
    """The smallest proportion p with P(Binomial(n, p) >= count) >= 1 - confidence; 0 without observations."""
    if count <= 0:
        return 0.0
    logs = _log_coefficients(count - 1, n)
    return _bisect(lambda p: 1 - _at_most(logs, n, p) < 1 - confidence)


def largest_count(n: int, proportion: float, confidence: float) -> int:
    """The largest count of `n` whose upper bound is at most `proportion`; -1 where there is none."""
    count, below = -1, 0.0
    while count < n:
        k = count + 1
        log_share = (
            lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(proportion) + (n - k) * log1p(-proportion)
        )
        below += exp(log_share)
        if below > 1 - confidence:
            break
        count = k
    return count


def observations_needed(proportion: float, confidence: float) -> int:
    """The fewest observations, none of them counted, whose upper bound is at most `proportion`."""
    return ceil(log(1 - confidence) / log1p(-proportion))


def _log_coefficients(count: int, n: int) -> np.ndarray:
    """float64[count + 1]: the logarithms of n over k."""
    return np.array([lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in range(count + 1)])


def _at_most(logs: np.ndarray, n: int, p: float) -> float:
    k = np.arange(len(logs))
    return float(np.exp(logs + k * np.log(p) + (n - k) * np.log1p(-p)).sum())


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
