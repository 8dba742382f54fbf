"""Bounds on what a cascade misses: exact, and broken no more often than they say."""

import numpy as np
import pytest

from megatron_srp.annotation.cascade.bound import Tally, Target, choose_threshold
from megatron_srp.annotation.store.settling import inner_counts
from megatron_srp.errors import InputError
from megatron_srp.statistics.clopper_pearson import largest_count, lower_bound, observations_needed, upper_bound


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [  # the two-sided 90% intervals of published tables of Clopper and Pearson's method
        (0, 10, 0.0, 0.2589),
        (1, 10, 0.0051, 0.3942),
        (5, 10, 0.2224, 0.7776),
        (10, 10, 0.7411, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_bounds_are_those_of_the_tables(count, n, low, high):
    assert lower_bound(count, n, 0.95) == pytest.approx(low, abs=5e-5)
    assert upper_bound(count, n, 0.95) == pytest.approx(high, abs=5e-5)


def test_bounds_of_large_numbers_are_those_of_small_ones_in_the_limit():
    assert upper_bound(0, 10**8, 0.95) * 10**8 == pytest.approx(2.9957, abs=1e-3)  # Poisson's
    assert lower_bound(3, 10**8, 0.95) * 10**8 == pytest.approx(0.8177, abs=1e-3)
    assert observations_needed(0.01, 0.95) == 299 and observations_needed(0.001, 0.95) == 2995


def judge(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A front's probabilities and a back's verdicts on `size` segments, of which 3% are harmful."""
    harmful = rng.random(size) < 0.03
    return rng.beta(np.where(harmful, 2.0, 0.5), 2.0).astype(np.float32), harmful


def test_at_most_one_in_twenty_corpora_breaks_the_bound():
    """A thousand samples of a corpus: the chosen threshold misses more than the target in at most 5% of them."""
    rng = np.random.default_rng(7)
    everything, harmful = judge(rng, 2_000_000)
    missed = np.sort(everything[harmful])
    target = Target(miss=0.05)
    broken = 0
    for _ in range(1000):
        rows = rng.integers(0, len(everything), 8000)
        choice = choose_threshold(everything[rows], harmful[rows], target)
        assert choice.bound <= target.miss
        broken += int(np.searchsorted(missed, choice.threshold) / len(missed) > target.miss)
    assert 0 < broken <= 65  # 50 are expected at most; 65 is the 98.5th percentile of Binomial(1000, 0.05)


def test_the_threshold_is_the_largest_that_meets_the_target():
    rng = np.random.default_rng(3)
    harms, harmful = judge(rng, 30_000)
    target = Target(miss=0.02)
    choice = choose_threshold(harms, harmful, target)
    assert choice.missed == largest_count(choice.harmful, 0.02, 0.95) > 0
    assert upper_bound(choice.missed + 1, choice.harmful, 0.95) > target.miss >= choice.bound
    assert choice.settled == (harms < choice.threshold).sum()


def test_ties_are_not_missed_and_nan_is_not_settled():
    harms = np.repeat(np.array([0.1, 0.5, np.nan], np.float32), [1000, 400, 100])
    harmful = np.repeat([False, True, True], [1000, 400, 100])
    choice = choose_threshold(harms, harmful, Target(miss=0.01))
    assert (choice.threshold, choice.missed, choice.settled) == (0.5, 0, 1000)


@pytest.mark.parametrize(
    ("harmful", "message"),
    [
        (0, r"none of the 1,000 sampled segments is harmful to the back: at most 0.30% of the corpus is, but"),
        (40, r"no threshold reaches the target, miss at most 0.01 of what the back calls Unsafe.*pass --sample 8,"),
    ],
)
def test_a_sample_that_shows_nothing_is_named(harmful, message):
    with pytest.raises(InputError, match=message):
        choose_threshold(np.zeros(1000, np.float32), np.arange(1000) < harmful, Target())


def test_the_audit_bounds_what_was_missed():
    counts = {"front Safe": 9000, "audit Safe": 990, "audit Unsafe": 10, "back Safe": 700, "back Unsafe": 300}
    tally = Tally.of({**counts, "back Controversial": 5, "back none": 1, "hand Unsafe": 4}, Target())
    assert tally == Tally(9000, 1000, 10, 1006, 300)
    assert tally.least_missed(0.95) < 90 / 400 < tally.most_missed(0.95)
    assert Tally.of({"back Controversial": 5}, Target(of="harmful")).found == 5
    inner = inner_counts({"front Safe": 1, "back>front Safe": 2, "audit>back Unsafe": 3, "back>audit Safe": 4})
    assert Tally.of(inner, Target()) == Tally(2, 4, 0, 3, 3)
    assert Tally().least_missed(0.95) == Tally().most_missed(0.95) == 0


def test_the_audits_bound_covers_too():
    """500 audits of a corpus that misses 4%: neither bound is broken in more than about 5%."""
    rng = np.random.default_rng(11)
    wrong_low = wrong_high = 0
    for _ in range(500):
        audited = 2000
        missed = rng.binomial(audited, 0.004)
        # 100,000 settled ones besides, 400 of them missed; so many harmful ones found that these are 4%
        tally = Tally(100_000, audited, missed, 20_000, 9_600 - missed)
        wrong_low += tally.least_missed(0.95) > 0.04
        wrong_high += tally.most_missed(0.95) < 0.04
    assert wrong_low <= 38 and wrong_high <= 38
