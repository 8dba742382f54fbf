"""Intervals, agreement and tests against figures worked out by hand, or published."""

import numpy as np
import pytest

from megatron_srp.statistics.paired import bootstrap, harmonic, kappa, mcnemar, mean, paired_bootstrap, wilson


def test_wilson():
    found = wilson(8, 10)  # 0.490, 0.943: Agresti and Coull 1998
    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 10).low == 0 and wilson(0, 10).high == pytest.approx(3.8416 / 13.8416, abs=1e-4)
    assert wilson(10, 10).high == 1
    assert np.isnan(wilson(0, 0).value)


def test_kappa():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(a, b) == pytest.approx(0.4)
    assert kappa([True, False], [True, False]) == 1 and np.isnan(kappa([True], [True])) and np.isnan(kappa([], []))


def test_mcnemar():
    # 1 against 7 of 8 that differ: 2 * (1 + 8) / 256
    a = [True] + [False] * 7 + [True] * 5
    b = [False] + [True] * 7 + [True] * 5
    assert mcnemar(a, b) == pytest.approx(18 / 256)
    assert mcnemar([True], [True]) == 1 and mcnemar([True, False], [False, True]) == 1


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap(values, mean)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(found.value - half, abs=0.05)
    assert found.high == pytest.approx(found.value + half, abs=0.05)
    assert bootstrap(values, mean) == found  # drawn with a seed


def test_harmonic_mean():
    rows = np.array([[0, 1], [0, 1], [0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [1, 0]])
    assert harmonic(rows) == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert harmonic(np.array([[0, 0], [1, 1]])) == 0 and np.isnan(harmonic(rows[:4]))


def test_paired_bootstrap():
    a = np.random.default_rng(0).normal(0, 1, 200)
    difference, p = paired_bootstrap(a, a + 1 + np.random.default_rng(1).normal(0, 0.1, 200), mean)
    assert difference.value == pytest.approx(1, abs=0.05) and difference.low > 0.9 and p < 0.01
    assert paired_bootstrap(a, np.random.default_rng(2).permutation(a), mean)[1] > 0.5
