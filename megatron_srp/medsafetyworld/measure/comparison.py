"""Two settings side by side, over the seeds that both have.

The interval of a difference spans Student's t of the seeds' differences and Newcombe's of the two shares; with one
seed it is Newcombe's alone, which does not cover variation between seeds, and the words say so.
"""

from dataclasses import dataclass

from megatron_srp.medsafetyworld.measure.summary import Group
from megatron_srp.statistics.over_seeds import difference, mean_over_seeds


@dataclass(frozen=True, slots=True)
class Gap:
    """A difference in points with its interval, over a number of seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def says(self) -> str:
        over = f"{self.seeds} seeds" if self.seeds > 1 else "one seed: the interval is over questions only"
        return f"{self.mean:+.1f} points (95% interval {self.low:+.1f} to {self.high:+.1f}, {over})"


def compare(a: Group, b: Group, metric: str) -> Gap | None:
    """`a` minus `b`, over the seeds that both have; None where they share none."""
    of_a, of_b = a.values(metric), b.values(metric)
    seeds = sorted(set(of_a) & set(of_b))
    if not seeds:
        return None
    mean, low, high = difference(a.pooled(metric, seeds), b.pooled(metric, seeds))
    if len(seeds) > 1:
        over = mean_over_seeds([of_a[seed] - of_b[seed] for seed in seeds])
        low, high = min(low, over["low"]), max(high, over["high"])
    return Gap(mean, low, high, len(seeds))
