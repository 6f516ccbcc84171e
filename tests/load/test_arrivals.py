"""Arrivals: gaps of the distribution that was asked for, a rate that rises in a line, the same after a pickle."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from scipy import stats

from tokenwatt.load import Arrivals

SEEDS = range(40)


def instants(count: int, **settings) -> np.ndarray:
    return np.array(list(itertools.islice(Arrivals(**settings), count)))


def gaps(count: int, **settings) -> np.ndarray:
    return np.diff(instants(count, **settings), prepend=0.0)


def test_poisson_gaps_pass_the_test_of_kolmogorov_and_smirnov_against_the_exponential():
    # Under the hypothesis p-values are even on [0, 1]: of 40 the smallest lies below 0.0005 once in 50 sets of seeds.
    values = [stats.kstest(gaps(2000, rate_per_s=7.0, seed=seed), "expon", args=(0, 1 / 7)).pvalue for seed in SEEDS]
    assert min(values) > 0.0005
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_the_test_sees_gaps_that_are_not_exponential():
    for burstiness in (0.5, 2.0):
        drawn = gaps(2000, rate_per_s=7.0, burstiness=burstiness)
        assert stats.kstest(drawn, "expon", args=(0, 1 / 7)).pvalue < 1e-6


def test_poisson_counts_of_a_second_have_the_variance_of_their_mean():
    # 4,000 arrivals at 20/s: 200 seconds. Variance over mean of Poisson counts is 1 +- sqrt(2 / 200) = 0.1; four of
    # them.
    counts = np.histogram(instants(4000, rate_per_s=20.0, seed=3), bins=np.arange(0, 190))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_their_mean_and_coefficient_of_variation(burstiness):
    drawn = gaps(60_000, rate_per_s=5.0, burstiness=burstiness, seed=1)
    # 1 / sqrt(burstiness): 2, 1, 0.5. Four standard errors of the mean: 0.2 s x cv x 4 / sqrt(60000).
    variation = 1 / math.sqrt(burstiness)
    assert drawn.mean() == pytest.approx(0.2, abs=0.2 * variation * 4 / math.sqrt(60_000))
    assert drawn.std() / drawn.mean() == pytest.approx(variation, rel=0.04)
    assert stats.kstest(drawn[:5000], "gamma", args=(burstiness, 0, 0.2 / burstiness)).pvalue > 0.001


def test_infinite_burstiness_is_a_constant_gap():
    assert instants(5, rate_per_s=4.0, burstiness=math.inf).tolist() == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_over_a_ramp_the_rate_rises_in_a_line():
    # Full rate 8/s after 10 s. By t < 10 s: 8 t^2 / 20 arrivals, so number n comes at sqrt(20 n / 8), and the 40th at
    # 10 s; after it one every 1/8 s.
    found = instants(80, rate_per_s=8.0, burstiness=math.inf, ramp_s=10.0)
    assert found[:40] == pytest.approx([math.sqrt(20 * n / 8) for n in range(1, 41)])
    assert found[39] == pytest.approx(10.0)
    assert np.diff(found[39:]) == pytest.approx(np.full(40, 0.125))
    assert [int((found <= t).sum()) for t in (2.0, 5.0, 9.99, 12.0)] == [1, 10, 39, 56]


def test_a_poisson_ramp_brings_as_many_as_its_line():
    # By 10 s 8 x 10 / 2 = 40 on average; over 200 seeds the standard error is sqrt(40 / 200) = 0.45; four of them.
    counts = [(instants(90, rate_per_s=8.0, ramp_s=10.0, seed=seed) <= 10.0).sum() for seed in range(200)]
    assert np.mean(counts) == pytest.approx(40, abs=1.8)


def test_seeds_differ_and_the_same_seed_does_not():
    first, second = (instants(50, rate_per_s=1.0, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, instants(50, rate_per_s=1.0, seed=0))


@pytest.mark.parametrize("taken", [0, 1, 700, 1024, 1500])
def test_a_pickle_goes_on_exactly_where_it_was(taken):
    # Gaps are drawn by blocks of 1024: before the first, in it, at its end, and in the second.
    arrivals = Arrivals(rate_per_s=3.0, ramp_s=20.0, seed=5)
    before = list(itertools.islice(arrivals, taken))
    other = pickle.loads(pickle.dumps(arrivals))
    after = list(itertools.islice(other, 2000))
    assert after == list(itertools.islice(arrivals, 2000))
    assert [*before, *after] == instants(taken + 2000, rate_per_s=3.0, ramp_s=20.0, seed=5).tolist()
