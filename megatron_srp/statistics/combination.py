"""A weighted sum of shares over seeds, such as a difference or an effect in a two-by-two, and tests against a bound.

Two kinds of uncertainty: worlds and trainings differ by seed (Student's t of the seeds' sums, the seeds being paired),
and a world has few clusters of questions (MOVER: Zou and Donner, Statistics in Medicine 27, 2008, which for one
difference is Newcombe's interval). The interval spans both and a p-value is the larger of both: seeds that agree by
chance, at zero above all, do not make a figure certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import fmean, stdev
from typing import Any

from megatron_srp.statistics.over_seeds import t95
from megatron_srp.statistics.student_t import above as t_above
from megatron_srp.statistics.wilson import Z95, wilson

Term = tuple[float, Mapping[int, Mapping[str, Any]]]  # a weight, and `share` by seed


@dataclass(frozen=True, slots=True)
class Estimate:
    """A weighted sum of shares, in points.

    Attributes:
        mean, low, high: over the seeds, with the 95% interval.
        by_seed: the sums.
        clusters: of questions, in the smallest term over all seeds.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    clusters: int
    _errors: tuple[float, float]  # standard errors over clusters, downwards and upwards

    def p_below(self, bound: float) -> float:
        """The one-sided p-value of the true value being below `bound`."""
        return self._p(bound - self.mean, self._errors[1])

    def p_above(self, bound: float) -> float:
        """The one-sided p-value of the true value being above `bound`."""
        return self._p(self.mean - bound, self._errors[0])

    def _p(self, distance: float, error: float) -> float:
        normal = erfc(distance / error / sqrt(2)) / 2 if error else float(distance <= 0)
        n = len(self.by_seed)
        if n < 2:
            return normal
        spread = stdev(self.by_seed) / sqrt(n)
        return max(normal, t_above(distance / spread, n - 1) if spread else float(distance <= 0))


def combine(terms: Sequence[Term]) -> Estimate | None:
    """The sum over the seeds that all terms have; None where there are none."""
    seeds = sorted(set.intersection(*(set(shares) for _, shares in terms)))
    if not seeds:
        return None
    sums = [sum(weight * shares[seed]["percent"] for weight, shares in terms) for seed in seeds]
    pooled = [(weight, *_pool([shares[seed] for seed in seeds])) for weight, shares in terms]
    mean = fmean(sums)
    down = sqrt(sum((w * (share - (low if w > 0 else high))) ** 2 for w, share, low, high, _ in pooled))
    up = sqrt(sum((w * ((high if w > 0 else low) - share)) ** 2 for w, share, low, high, _ in pooled))
    spread = t95(len(seeds) - 1) * stdev(sums) / sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    clusters = min(n for *_, n in pooled)
    return Estimate(
        mean, mean - max(down, spread), mean + max(up, spread), tuple(sums), clusters, (down / Z95, up / Z95)
    )


def _pool(shares: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, int]:
    """The seeds' mean as a share of all their clusters, its interval, and their number."""
    clusters, mean = sum(share["clusters"] for share in shares), fmean(share["percent"] for share in shares)
    low, high = wilson(mean / 100, clusters)
    return mean, 100 * low, 100 * high, clusters
