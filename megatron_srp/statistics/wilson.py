"""Wilson's 95% interval (1927) for a proportion: it holds near 0 and 1 too."""

from math import sqrt

Z95 = 1.959963984540054


def wilson(share: float, n: float) -> tuple[float, float]:
    """Low and high end for a `share` (0 to 1) of `n` observations; `n` must be positive."""
    middle, half = share + Z95**2 / (2 * n), Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    low, high = (middle - half) / (1 + Z95**2 / n), (middle + half) / (1 + Z95**2 / n)
    # Rounding errors at 0 and 1 are removed.
    return 0.0 if share <= 0 else max(0.0, low), 1.0 if share >= 1 else min(1.0, high)
