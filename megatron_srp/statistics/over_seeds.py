"""95% confidence intervals for a share, and for a mean over seeds.

Questions on one outcome tend to be answered alike, in other words or about one compound and two, so for the interval of
a share they count as one: its sample size is the number of clusters.
"""

from collections.abc import Hashable, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from megatron_srp.statistics.wilson import Z95, wilson

# Student's t, two-sided 95%, for 1 to 30 degrees of freedom; beyond those the normal quantile.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def share(values: Sequence[bool], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """The share of true values, as JSON: `count` of `of`, in percent, with Wilson's interval `low` to `high`.

    Args:
        clusters: what each value is about; `clusters` is the number of different ones. Without
            values there are no percentages.
    """
    different, count, n = len(set(clusters)), sum(values), len(values)
    found: dict[str, Any] = {"count": count, "of": n, "clusters": different}
    if n:
        low, high = wilson(count / n, different)
        found |= {"percent": round(100 * count / n, 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}
    return found


def mean_over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """`mean`, `least`, `most` and number of the values, and the t interval `low` to `high` where there are two or more.

    The interval is of the mean over worlds and trainings, of which the seeds are a sample."""
    found: dict[str, Any] = {"seeds": len(values), "mean": fmean(values), "least": min(values), "most": max(values)}
    if len(values) > 1:
        wide = t95(len(values) - 1) * stdev(values) / sqrt(len(values))
        found |= {"low": found["mean"] - wide, "high": found["mean"] + wide}
    return found


def t95(df: int) -> float:
    """The two-sided 95% quantile of Student's t."""
    return _T[df - 1] if df <= len(_T) else Z95
