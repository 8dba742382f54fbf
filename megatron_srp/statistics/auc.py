"""How well scores tell two groups apart, without a threshold."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from megatron_srp.statistics.wilson import wilson


def auc(positive: Sequence[float], negative: Sequence[float]) -> tuple[float, float, float]:
    """The area under the ROC curve, and a 95% interval that is conservative and holds at 0 and 1.

    The area is the chance that a positive case scores above a negative one, ties counting half (Mann and Whitney). Its
    variance is at most that of a share of as many cases as the smaller group has (Birnbaum and Klose 1957), so the
    interval is Wilson's for those.

    Args:
        positive, negative: scores, at least one of each.
    """
    ordered, n, m = sorted(negative), len(positive), len(negative)
    above = sum(bisect_left(ordered, p) + bisect_right(ordered, p) for p in positive) / 2
    area = above / (n * m)
    return area, *wilson(area, min(n, m))
