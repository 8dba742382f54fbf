"""Where a forced reflection should stop: the share of harmful and of benign cases stopped, by threshold.

What a threshold does, and which is chosen, is `generation.threshold`'s, as for `srp threshold`. Where it is chosen and
checked, no outcome is in both.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence

from megatron_srp.generation.threshold.recommend import (
    MAX_FALSE_STOPS,
    at_threshold,
    percentile_setting,
    recommend,
    threshold_curve,
)

GRID = (0.001, 0.01, 0.02, 0.05, *(n / 10 for n in range(1, 10)), 0.95, 0.98, 0.99, 0.999)
Reading = tuple[Sequence[str], float]  # the outcomes of its facts, and the probability of an unsafe verdict


def curve(harmful: Sequence[float], benign: Sequence[float]) -> list[dict[str, float]]:
    """For each threshold of `GRID` the `harmful` and the `benign` stopped, in percent.

    Args:
        harmful, benign: probabilities of an unsafe verdict, at least one each.
    """
    return [{"threshold": at, **_stopped(harmful, benign, at)} for at in GRID]


def _stopped(harmful: Sequence[float], benign: Sequence[float], threshold: float) -> dict[str, float]:
    """The shares that reach the threshold, in percent."""
    point = at_threshold(threshold_curve(harmful, benign), threshold)
    return {
        "harmful": round(100 * (1 - point.attack_success), 2),
        "benign": round(100 * point.false_stops, 2),
    }


def choose_and_check(harmful: Sequence[Reading], benign: Sequence[Reading]) -> dict[str, float]:
    """A threshold from half of the outcomes, and what it stops of the others, which are not used in the choice.

    Empty where no threshold stops few enough of the benign, or there are too few outcomes for two halves.
    """
    halves = halve([*harmful, *benign])
    (chosen, checked), (benign_chosen, benign_checked) = (
        [[p for _, p in within(readings, half)] for half in halves] for readings in (harmful, benign)
    )
    if not (chosen and checked and benign_chosen and benign_checked):
        return {}
    point = recommend(threshold_curve(chosen, benign_chosen))
    if point is None:
        return {}
    return {"threshold": point.setting, **_stopped(checked, benign_checked, point.setting)}


def from_benign(benign: Iterable[Reading]) -> float | None:
    """A threshold from benign cases alone, directly above the 99th percentile; None where that is 1."""
    probabilities = [probability for _, probability in benign]
    return percentile_setting(probabilities, MAX_FALSE_STOPS) if probabilities else None


def halve(readings: Iterable[Reading]) -> tuple[set[str], set[str]]:
    """Every second outcome, and the others."""
    found = list(dict.fromkeys(outcome for outcomes, _ in readings for outcome in outcomes))
    return set(found[::2]), set(found[1::2])


def within(readings: Iterable[Reading], half: Collection[str]) -> list[Reading]:
    """Those all of whose outcomes are in `half`: one with outcomes in both is in neither."""
    return [reading for reading in readings if all(outcome in half for outcome in reading[0])]


def auc(harmful: Sequence[float], benign: Sequence[float]) -> float | None:
    """The probability that a harmful case has a higher value than a benign one, ties counting half."""
    if not harmful or not benign:
        return None
    ordered = sorted(benign)
    higher = sum(bisect_left(ordered, p) + bisect_right(ordered, p) for p in harmful) / 2
    return higher / (len(harmful) * len(benign))
