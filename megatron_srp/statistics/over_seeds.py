"""95% confidence intervals for a share, for a difference of two, and for a mean over seeds.

Questions on the same facts in other words tend to be answered alike, so for the interval of a share they count as
one: its sample size is the number of different facts asked about.
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


def share(values: Sequence[bool], subjects: Sequence[Hashable]) -> dict[str, Any]:
    """The share of true values, as JSON: `count` of `of`, in percent, with Wilson's interval `low` to `high`.

    Args:
        subjects: what each value is about; `facts` is the number of different ones. Without
            values there are no percentages.
    """
    facts, count, n = len(set(subjects)), sum(values), len(values)
    found: dict[str, Any] = {"count": count, "of": n, "facts": facts}
    if n:
        low, high = wilson(count / n, facts)
        found |= {"percent": round(100 * count / n, 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}
    return found


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float, float]:
    """Share `a` minus share `b` as `share` gives them, in points, with Newcombe's interval."""
    gap = a["percent"] - b["percent"]
    low = gap - sqrt((a["percent"] - a["low"]) ** 2 + (b["high"] - b["percent"]) ** 2)
    high = gap + sqrt((a["high"] - a["percent"]) ** 2 + (b["percent"] - b["low"]) ** 2)
    return gap, low, high


def mean_over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """`mean`, `least`, `most` and number of the values, and the t interval `low` to `high` where there are two or more.

    The interval is of the mean over worlds and trainings, of which the seeds are a sample."""
    found: dict[str, Any] = {"seeds": len(values), "mean": fmean(values), "least": min(values), "most": max(values)}
    if len(values) > 1:
        t = _T[len(values) - 2] if len(values) - 2 < len(_T) else Z95
        wide = t * stdev(values) / sqrt(len(values))
        found |= {"low": found["mean"] - wide, "high": found["mean"] + wide}
    return found
