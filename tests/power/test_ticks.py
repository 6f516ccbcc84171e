from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.power.instrument import Instrument, QuickRead, learn_periods
from tokenwatt.power.series import cumulative, delay_s, longest_hold_s
from tokenwatt.power.ticks import Counter, staircase

READ_EVERY_S = 0.0618


HALF_S = 0.4143


def square_w(at_s: Any) -> Any:
    """300 W and 600 W in turns of HALF_S."""
    return np.where(at_s % (2 * HALF_S) < HALF_S, 300.0, 600.0)


def square_j(at_s: Any) -> Any:
    """Integral of `square_w` from 0."""
    into_s = at_s % (2 * HALF_S)
    before_j = np.floor(at_s / (2 * HALF_S)) * HALF_S * 900.0
    return before_j + 300.0 * np.minimum(into_s, HALF_S) + 600.0 * np.maximum(into_s - HALF_S, 0.0)


@pytest.mark.parametrize("period_s", [0.02, 0.025, 0.05, 0.1, 0.25])
@pytest.mark.parametrize("phase", [0.0, 0.31, 0.77])
def test_ticks_are_found_although_only_readings_are_seen(period_s: float, phase: float):
    read_s: Any = 0.003 + READ_EVERY_S * np.arange(200)
    ticked_s = (np.floor(read_s / period_s - phase) + phase) * period_s
    # The start-up trial is 0.05 % wrong about the period.
    counter = Counter(period_s * 1.0005, jitter_s=0.0, call_s=0.0)
    steps = staircase(read_s, square_j(ticked_s), square_w(read_s), 6.1, counter)
    assert steps is not None
    # Each tick is placed within a few milliseconds. A reading within 0.3 ms of a tick may be taken for its neighbour's:
    # one in a hundred.
    true_s = (np.rint(steps.at_s / period_s - phase) + phase) * period_s
    assert np.max(np.abs(steps.at_s - true_s)) < min(0.004, 0.2 * period_s)
    assert np.mean(np.abs(steps.total_j - square_j(true_s)) > 0.01) <= 0.02


def test_a_moment_between_two_ticks_lies_on_the_line_between_them():
    # 200 W; a tick every second, read every 0.3 s.
    read_s: Any = 0.3 * np.arange(100) + 0.01
    counter = Counter(1.0, jitter_s=0.0, call_s=0.02)
    steps = staircase(read_s, 200.0 * np.floor(read_s), np.full(100, 200.0), 15.0, counter)
    assert steps is not None
    joules, sd_j = steps.at(15.4)
    # All readings just fit a phase from 0 to some tens of milliseconds: whole ticks lie where they lie within those.
    assert joules == pytest.approx(200.0 * 15.4, abs=200.0 * 0.05)
    assert sd_j >= 200.0 * 0.02 / 12**0.5  # a call of 20 ms is of some moment in it


def test_too_few_readings_say_nothing():
    read_s: Any = READ_EVERY_S * np.arange(11)
    assert staircase(read_s, 100.0 * read_s, np.full(11, 100.0), 0.3, Counter(0.1, 0.0, 0.0)) is None


def test_steady_power_leaves_nothing_open_between_ticks_and_jumps_do():
    read_s: Any = 0.003 + READ_EVERY_S * np.arange(200)
    ticked_s = np.floor(read_s / 0.1) * 0.1
    counter = Counter(0.1, jitter_s=0.0, call_s=0.0)
    steady = staircase(read_s, 450.0 * ticked_s, np.full(200, 450.0), 6.0, counter)
    jumping = staircase(read_s, square_j(ticked_s), square_w(read_s), 6.0, counter)
    assert steady is not None
    assert jumping is not None
    assert steady.between_sd_j == pytest.approx(0.0, abs=1e-6)
    # A jump of 300 W at a random place of a gap errs by up to 300 * 0.1 / 4 = 7.5 J, by 300 * 0.1 * sqrt(1/90) = 3.2 J
    # in the mean square; it comes in one gap of four, which makes half of that.
    assert 0.5 < jumping.between_sd_j < 3.2


@settings(deadline=None, max_examples=40)
@given(scale=st.floats(0.2, 5.0), phase=st.floats(0.0, 1.0))
def test_only_the_course_of_the_power_reading_counts(scale: float, phase: float):
    read_s: Any = READ_EVERY_S * np.arange(150)
    ticked_s = (np.floor(read_s / 0.1 - phase) + phase) * 0.1
    counter = Counter(0.1, jitter_s=0.0, call_s=0.0)
    once = staircase(read_s, square_j(ticked_s + 1), square_w(read_s), 4.5, counter)
    scaled = staircase(read_s, square_j(ticked_s + 1), scale * square_w(read_s), 4.5, counter)
    assert once is not None
    assert scaled is not None
    assert scaled.at(4.5)[0] == pytest.approx(once.at(4.5)[0])


class Bench:
    """A clock that only moves when somebody sleeps or reads, and boards on it."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def board(self, counter_s: float | None, power_s: float, call_s: float = 2e-4):
        """100 W; counter and power renewed so often (None: there is no counter)."""

        def energy_j() -> float | None:
            self.now_s += call_s
            return None if counter_s is None else float(np.floor(self.now_s / counter_s) * counter_s * 100.0)

        def power_w() -> float:
            self.now_s += call_s
            return float(100.0 + np.floor(self.now_s / power_s) % 7)

        return QuickRead(energy_j, power_w)


def test_the_trial_finds_how_often_readings_are_renewed():
    bench = Bench()
    boards = {"a": bench.board(0.1, 0.025), "b": bench.board(0.02, 0.1), "c": bench.board(None, 0.05)}
    learnt = learn_periods(boards, bench.clock, bench.sleep)
    for source, counter_s, power_s in (("a", 0.1, 0.025), ("b", 0.02, 0.1)):
        counter, period_s = learnt[source]
        assert counter is not None
        assert counter.period_s == pytest.approx(counter_s, rel=2e-3)
        assert counter.jitter_s < 1e-3
        assert counter.call_s == pytest.approx(2e-4)
        assert period_s == pytest.approx(power_s, abs=2e-3)
    assert learnt["c"][0] is None
    # A second and a half, and not much longer.
    assert 6.5 <= bench.now_s < 6.51


def test_a_counter_that_does_not_tick_is_not_guessed():
    bench = Bench()
    assert learn_periods({"a": bench.board(10.0, 10.0)}, bench.clock, bench.sleep) == {"a": (None, None)}
    assert Instrument().counter is None


def test_the_delay_of_a_trailing_average_is_half_its_length():
    at_s: Any = 0.05 * np.arange(400)
    trailing_w = (square_j(at_s + 1.0) - square_j(at_s)) / 1.0
    late_s, sd_s = delay_s(at_s, square_j(at_s + 1.0), trailing_w)
    assert late_s == pytest.approx(0.5, abs=0.05)
    assert sd_s < 0.05
    prompt_s, _ = delay_s(at_s, square_j(at_s), square_w(at_s))
    assert abs(prompt_s) < 0.05
    # Nothing changes, so nothing can be known.
    assert delay_s(at_s, 100.0 * at_s, np.full(400, 100.0)) == (0.0, float("inf"))


def test_small_sums_by_hand():
    assert cumulative(np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0, 20.0])).tolist() == [0.0, 15.0, 55.0]
    assert longest_hold_s(np.array([0.0, 1.0, 3.0, 4.0]), np.array([5.0, 5.0, 5.0, 6.0])) == 3.0
    assert longest_hold_s(np.array([0.0, 1.0]), np.array([5.0, 6.0])) == 0.0
