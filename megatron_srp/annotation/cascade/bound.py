"""What a cascade misses: bounds from a sample that both guards judged, and from the audit of a running job.

A segment is missed when the front settles it as Safe and the back would have called it harmful. The miss rate is the
share of missed segments among all that the back calls harmful.

Choosing a threshold. In a random sample, K segments are harmful to the back. For a threshold t, the number of those
that the front would settle is Binomial(K, miss rate at t), so that Clopper and Pearson's bound holds exactly. The
largest t whose bound meets the target is chosen. It was chosen by looking at the same sample, and the bound holds all
the same, because the miss rate and its bound only grow with t: Bates et al. 2021, "Distribution-free, risk-controlling
prediction sets", arXiv:2101.02703, theorem 1.

Checking it. A random share of what the front settles is audited: the back judges it all the same. Missed segments
among the audited bound the number of all missed ones, and the back's own count of harmful segments is known.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_srp.annotation.store.settling import AUDIT, BACK, FRONT, NESTED
from megatron_srp.errors import InputError
from megatron_srp.schema import Verdict
from megatron_srp.statistics.clopper_pearson import largest_count, lower_bound, observations_needed, upper_bound


@dataclass(frozen=True, slots=True)
class Target:
    """What a cascade promises.

    Attributes:
        miss: the largest share of harmful segments that may be missed.
        confidence: the probability with which that holds.
        of: "Unsafe": harmful are the segments that the back calls Unsafe; "harmful": the Controversial ones too.
    """

    miss: float = 0.01
    confidence: float = 0.95
    of: str = "Unsafe"

    def counts(self, verdict: Verdict) -> bool:
        """Whether a segment of that verdict is harmful."""
        return verdict is Verdict.UNSAFE or (self.of == "harmful" and verdict is Verdict.CONTROVERSIAL)

    def __str__(self) -> str:
        what = "what the back calls Unsafe" if self.of == "Unsafe" else "what the back does not call Safe"
        return f"miss at most {self.miss:.3g} of {what}, with {self.confidence:.3g} confidence"


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and what the sample says about it.

    Attributes:
        threshold: the front settles what has a lower probability of harm.
        segments, harmful: in the sample. missed: harmful ones below the threshold. settled: segments below it.
        bound: of the miss rate, with the target's confidence.
    """

    threshold: float
    segments: int
    harmful: int
    missed: int
    settled: int
    bound: float


def choose_threshold(harms: np.ndarray, harmful: np.ndarray, target: Target) -> Choice:
    """The largest threshold that meets the target.

    Args:
        harms: float32[N] the front's probabilities of harm; NaN is never settled.
        harmful: bool[N] by the back's verdict.

    Raises:
        InputError: where the sample has too few harmful segments for the target, whatever the threshold.
    """
    above = np.where(np.isnan(harms), np.inf, harms)
    scores, total = np.sort(above[harmful]), int(harmful.sum())
    allowed = largest_count(total, target.miss, target.confidence)
    if allowed < 0:
        raise InputError(too_few(total, len(harms), target))
    threshold = float(min(scores[allowed], 1.0))
    missed = int((scores < threshold).sum())
    settled = int((above < threshold).sum())
    bound = upper_bound(missed, total, target.confidence)
    return Choice(threshold, len(harms), total, missed, settled, bound)


def too_few(total: int, segments: int, target: Target) -> str:
    """Why a sample with so few harmful segments shows nothing, and what would."""
    needed = observations_needed(target.miss, target.confidence)
    rate = upper_bound(total, segments, target.confidence)
    if not total:
        return (
            f"none of the {segments:,} sampled segments is harmful to the back: at most {rate:.2%} of the corpus is, "
            f"but nothing is known about misses; the target takes {needed:,} harmful ones: pass a larger --sample, or "
            "--input with more harmful texts"
        )
    bound = upper_bound(0, total, target.confidence)
    sample = int(np.ceil(1.1 * needed * segments / total))
    return (
        f"no threshold reaches the target, {target}: {total:,} of {segments:,} sampled segments are harmful to the "
        f"back, which bounds the misses at {bound:.2%} at best; it takes {needed:,}: pass --sample {sample:,}, or a "
        "target with a larger miss"
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """A corpus judged by a cascade, in numbers of segments.

    Attributes:
        settled: Safe by the front alone.
        audited: below the threshold too, and judged by the back. missed: the harmful ones of these.
        asked: above it. found: the harmful ones of these.
    """

    settled: int = 0
    audited: int = 0
    missed: int = 0
    asked: int = 0
    found: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int], target: Target) -> "Tally":
        """From numbers by "STAGE VERDICT", as a store keeps them (`store.settling`)."""
        totals, harmful = Counter[str](), Counter[str]()
        for name, count in counts.items():
            path, _, verdict = name.rpartition(" ")
            stage = path.partition(NESTED)[0]
            totals[stage] += count
            harmful[stage] += count if verdict in set(Verdict) and target.counts(Verdict(verdict)) else 0
        return cls(totals[FRONT], totals[AUDIT], harmful[AUDIT], totals[BACK], harmful[BACK])

    def least_missed(self, confidence: float) -> float:
        """Lower bound of the miss rate."""
        return self._rate(lower_bound(self.missed, self.audited, confidence))

    def most_missed(self, confidence: float) -> float:
        """Upper bound of the miss rate."""
        return self._rate(upper_bound(self.missed, self.audited, confidence))

    def _rate(self, share: float) -> float:
        """The miss rate if that share of what the front settled alone is harmful."""
        missed = share * self.settled
        harmful = missed + self.found + self.missed
        return missed / harmful if harmful else 0.0
