"""The ranks that figures allow: a range for each, as wide as the differences that they leave open.

A difference between two settings counts where it is decided as a claim is: paired by seed, after Holm's correction for
all pairs, and never by one seed.
"""

from collections.abc import Sequence
from itertools import combinations

from megatron_srp.medsafetyworld.measure.findings import ALPHA
from megatron_srp.medsafetyworld.measure.summary import Group
from megatron_srp.statistics.combination import Estimate, combine
from megatron_srp.statistics.holm import holm


def ranks(groups: Sequence[Group], metric: str) -> list[tuple[int, int]]:
    """The first and the last place that each group may have, 1 for the lowest figure."""
    pairs = list(combinations(range(len(groups)), 2))
    shares = [group.shares(metric) for group in groups]
    found = [combine([(1.0, shares[a]), (-1.0, shares[b])]) for a, b in pairs]
    adjusted = holm([_two_sided(estimate) for estimate in found])
    first, last = [1] * len(groups), [len(groups)] * len(groups)
    for (a, b), estimate, p in zip(pairs, found, adjusted, strict=True):
        if estimate and p < ALPHA:
            low, high = (a, b) if estimate.mean < 0 else (b, a)
            first[high] += 1
            last[low] -= 1
    return list(zip(first, last, strict=True))


def _two_sided(estimate: Estimate | None) -> float:
    if estimate is None or len(estimate.by_seed) < 2:
        return 1.0
    return min(1.0, 2 * min(estimate.p_below(0.0), estimate.p_above(0.0)))
