"""Intervals over windows: by hand, as properties, and in five hundred seeded trials with the rule that stops them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.analysis.statistics import (
    MIN_WINDOWS,
    effective_count,
    half_width,
    has_converged,
    mean_interval,
    ratio_interval,
    tail_interval,
)

VALUES = st.lists(st.floats(0.1, 100.0), min_size=2, max_size=30)


def test_the_t_interval_by_hand():
    # Mean 10, deviations -1, 1, -1, 1: s = sqrt(4 / 3) = 1.1547; neighbours go apart, so all four count; t(3) = 3.1824.
    interval = mean_interval([9.0, 11.0, 9.0, 11.0])
    assert interval.mean == 10.0
    assert interval.high == pytest.approx(10 + 3.1824 * 1.1547 / 2, rel=1e-4)
    assert interval.low == pytest.approx(10 - 3.1824 * 1.1547 / 2, rel=1e-4)
    assert (interval.method, interval.count) == ("t", 4)
    assert interval.relative_width == pytest.approx(2 * 0.18374, rel=1e-4)


def test_neighbours_that_are_alike_count_for_less():
    # Deviations -2, -1, 0, 1, 2: products of neighbours 2 + 0 + 0 + 2 = 4, squares 10; r = 0.4 + 1 / 5 = 0.6;
    # 5 x 0.4 / 1.6 = 1.25 values.
    assert effective_count([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.25)
    # s = sqrt(10 / 4) = 1.5811, t(4) = 2.7764.
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.7764 * 1.5811 / math.sqrt(1.25), rel=1e-4)


def test_one_window_has_no_interval():
    interval = mean_interval([3.0])
    assert (interval.mean, interval.low, interval.high, interval.method) == (3.0, None, None, None)
    assert interval.relative_width == math.inf
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


def test_a_ratio_of_pairs_by_hand():
    # Logarithms of 2, 8, 2, 8: mean log 4, deviations of log 2 = 0.6931, s = 0.6931 x sqrt(4 / 3) = 0.8004, t(3).
    ratio = ratio_interval([2.0, 8.0, 4.0, 16.0], [1.0, 1.0, 2.0, 2.0])
    assert ratio.mean == pytest.approx(4.0)
    half = 3.1824 * 0.8004 / 2
    assert (ratio.low, ratio.high) == pytest.approx((4 / math.exp(half), 4 * math.exp(half)), rel=1e-3)
    with pytest.raises(ValueError, match="positive"):
        ratio_interval([1.0], [0.0])
    with pytest.raises(ValueError, match="as many"):
        ratio_interval([1.0], [])


def test_pairs_take_out_what_both_sides_share():
    # A drift of 10 % that both sides follow, and a ratio of 1.1 that never changes.
    drift = [1.0, 1.02, 1.05, 1.07, 1.1]
    assert ratio_interval([1.1 * value for value in drift], drift).relative_width < 1e-9
    assert mean_interval(drift).relative_width > 0.1


@given(VALUES, st.floats(0.01, 100.0))
def test_an_interval_holds_its_mean_and_follows_the_unit(values, factor):
    interval = mean_interval(values)
    scaled = mean_interval([factor * value for value in values])
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low <= interval.mean <= interval.high
    assert scaled.relative_width == pytest.approx(interval.relative_width, rel=1e-6, abs=1e-9)


@given(VALUES)
def test_a_ratio_turned_round_is_its_inverse(values):
    other = values[::-1]
    there, back = ratio_interval(values, other), ratio_interval(other, values)
    assert there.low is not None
    assert back.high is not None
    assert there.mean * back.mean == pytest.approx(1.0)
    assert there.low * back.high == pytest.approx(1.0)


@given(VALUES)
def test_between_one_value_and_all_of_them_count(values):
    count = float(effective_count(values))
    assert 0.05 * len(values) <= count <= len(values) * (1 + 1e-9)


def test_a_bootstrap_is_seeded_and_agrees_with_student_where_windows_are_many():
    values = np.random.default_rng(3).normal(10.0, 1.0, 60).tolist()
    drawn, again = tail_interval(values, seed=1), tail_interval(values, seed=1)
    assert (drawn.low, drawn.high, drawn.method) == (again.low, again.high, "bootstrap")
    assert drawn.relative_width == pytest.approx(mean_interval(values).relative_width, rel=0.1)
    assert tail_interval([5.0] * 30) == mean_interval([5.0] * 30)


def test_tails_are_resampled_with_twenty_windows_or_more():
    # Nineteen windows of 10 ms and one of 30 ms: the upper end lies farther from the mean than the lower one.
    values = [0.010] * 10 + [0.030] + [0.010] * 9
    assert tail_interval(values[1:]).method == "t"
    drawn = tail_interval(values)
    assert drawn.method == "bootstrap"
    assert drawn.low is not None
    assert drawn.high is not None
    assert drawn.high - drawn.mean > 1.5 * (drawn.mean - drawn.low) > 0


def test_neighbours_that_are_alike_widen_a_bootstrap_too():
    # Two levels, one after the other, and the same values in turns, whose neighbours go apart.
    after, turns = [1.0] * 12 + [2.0] * 12, [1.0, 2.0] * 12
    assert tail_interval(after).relative_width > 3 * tail_interval(turns).relative_width


def test_an_interval_is_not_narrower_than_what_the_meters_leave_open():
    # Six windows of 2 J/token whose meters leave 0.03 and 0.04 open: root mean square 0.03536, over sqrt(6) 0.01443.
    halves = [0.03, 0.04] * 3
    agreed = mean_interval([2.0] * 6, halves)
    assert agreed.high == pytest.approx(2.0 + 0.014434, abs=1e-5)
    assert has_converged([2.0] * 6, 0.015, halves)
    assert not has_converged([2.0] * 6, 0.014, halves)
    # Beside a spread they add as squares: 0.36748 / 2 from the t-interval of test_the_t_interval_by_hand.
    assert mean_interval([9.0, 11.0, 9.0, 11.0], [2.0] * 4).high == pytest.approx(
        10 + math.hypot(1.8374, 1.0), rel=1e-4
    )


def test_a_ratio_is_not_narrower_than_what_the_meters_leave_open():
    # Four pairs of ratio 2, each open by 2 %: exp(0.02 / sqrt(4)).
    ratio = ratio_interval([2.0] * 4, [1.0] * 4, [0.02] * 4)
    assert ratio.high == pytest.approx(2 * math.exp(0.01))


def test_why_student_is_the_default():
    # Five normal windows, 500 trials: resampling them covers some 83 %, the t-interval 95 %.
    trials = np.random.default_rng(0).normal(1.0, 0.01, (500, 5))
    drawn = np.random.default_rng(1).integers(0, 5, (2000, 5))
    means = trials[:, drawn].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert ((low <= 1.0) & (high >= 1.0)).mean() < 0.88
    assert (np.abs(trials.mean(axis=1) - 1.0) <= half_width(trials)).mean() > 0.92


def test_convergence_needs_windows_enough():
    same = [1.0] * MIN_WINDOWS
    assert has_converged(same, 0.02)
    assert not has_converged(same[1:], 0.02)
    assert not has_converged([1.0, 1.5, 1.0, 1.5, 1.0, 1.5], 0.02)


def coverage(spread: float, least: int, most: int = 20, width: float = 0.02, trials: int = 500, seed: int = 6) -> float:
    """Share of trials whose interval holds the truth, 1, when a series stops as soon as it is narrow enough."""
    windows = np.random.default_rng(seed).normal(1.0, spread, (trials, most))
    is_over, is_covered = np.zeros(trials, bool), np.zeros(trials, bool)
    for count in range(least, most + 1):
        so_far = windows[:, :count]
        mean, half = so_far.mean(axis=1), half_width(so_far)
        stops = ~is_over & ((2 * half <= width * mean) | (count == most))
        is_covered[stops] = (np.abs(mean - 1.0) <= half)[stops]
        is_over |= stops
    return float(is_covered.mean())


SPREADS = (0.002, 0.005, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.03)
"""Of windows: from those that stop at once to those that use up all windows."""


@pytest.mark.parametrize("spread", SPREADS)
def test_intervals_cover_as_they_say_though_the_series_stops_when_it_likes_what_it_sees(spread):
    assert 0.92 <= coverage(spread, MIN_WINDOWS) <= 0.98


def test_neighbours_that_are_alike_are_covered_less_and_without_the_guard_far_less():
    # 0.3 of each window's error is handed on to the next; ten windows, no stopping.
    random = np.random.default_rng(8)
    errors = random.normal(size=(20000, 10))
    for place in range(1, 10):
        errors[:, place] = 0.3 * errors[:, place - 1] + math.sqrt(1 - 0.3**2) * errors[:, place]
    mean, half = errors.mean(axis=1), half_width(errors)
    unguarded = half * np.sqrt(effective_count(errors) / 10)
    assert (np.abs(mean) <= half).mean() == pytest.approx(0.91, abs=0.015)
    assert (np.abs(mean) <= unguarded).mean() == pytest.approx(0.87, abs=0.015)


def test_fewer_windows_would_stop_too_early():
    # Twenty thousand trials, so that 0.3 % can be told: three windows cover 92 % where six cover 94 %.
    worst_of_3 = min(coverage(spread, 3, trials=20000) for spread in SPREADS)
    worst_of_6 = min(coverage(spread, MIN_WINDOWS, trials=20000) for spread in SPREADS)
    assert worst_of_3 < 0.925
    assert worst_of_6 > 0.94
