"""The energy counter as a staircase: when its ticks fell, found from readings that saw only some of them.

A board renews its counter every P seconds (20 to 100 ms) and answers with the last value in between, so a reading is
exact for a moment up to P before it. The readings come every 62 ms and meet the ticks everywhere; there is only one
phase at which the growth between all of them fits the power that was drawn. With it, each reading is moved to the tick
whose value it is, and a window's edge is interpolated between two ticks instead of between two readings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.series import Series, cumulative

REACH_S = 4.0
"""Readings so far on both sides of an edge find its ticks; a board's clock hardly drifts meanwhile."""
REACH_TICKS = 40
MIN_READINGS = 12
"""Fewer readings around an edge cannot tell one phase from another."""
PERIOD_SHARE = 2e-3
"""How far the true period may lie from the one found at start-up."""
PERIOD_STEPS = 21
PHASE_STEPS = 40
FINER = 5
"""Around the best period all phases are searched again in steps so many times smaller."""
AROUND = 4
"""Steps of the period on either side of the best one that are searched again, by halves."""
AS_GOOD = 0.1
"""Phases whose misfit exceeds the best by less than this share of two ticks' energy cannot be told from it."""
NEAR_TICK_S = 3e-4
"""A reading so near to a tick may have come on either side of it, even if the call itself takes no time."""
JUMP_STEPS = 3.0
"""A difference of power across a gap is a jump if it exceeds the median one so many times."""
JUMP_ERROR = 0.1
"""Standard deviation of a jump's joules, as a share of jump times gap: it may not be upright, nor its levels even. A
straight line would be off by 1/4 in the middle."""
MIDPOINT_TO_ANYWHERE = 0.6
"""Mean squared error of linear interpolation over a gap, to that at its middle: 0.53 for steps or slopes of power at a
random place (1/90 by 1/48, and 1/120 by 1/64), 0.67 for white noise (1/6 by 1/4)."""


MOST_JITTER, MOST_WALK = 0.04, 0.01
"""A renewal that strays further from its place, or a spacing from the period (shares of it), leaves less of a phase."""


@dataclass(frozen=True, slots=True)
class Counter:
    """How a board's energy counter behaves, as a start-up trial found it."""

    period_s: float
    """It is renewed so often."""
    jitter_s: float
    """Standard deviation of single renewals around their places."""
    call_s: float
    """A reading takes so long, and is of some moment in it."""
    walk_s: float = 0.0
    """Standard deviation of single spacings around the period, which moves all later renewals."""

    @property
    def is_regular(self) -> bool:
        """Whether renewals keep to even places, so that a phase says when they were."""
        return self.jitter_s <= MOST_JITTER * self.period_s and self.walk_s <= MOST_WALK * self.period_s


@dataclass(frozen=True, slots=True)
class Staircase:
    """Ticks of a counter: `total_j[i]` joules at `at_s[i]`, with what is not known about them."""

    at_s: Series
    total_j: Series
    time_sd_s: float
    """How far a tick may lie from its place, one standard deviation."""
    between_sd_j: float
    """How far a straight line between two neighbours may be off at a random place, one standard deviation."""
    usual_step_w: float
    """Power before a gap and after it commonly differs by less than this."""

    def at(self, moment_s: float) -> tuple[float, float]:
        """Joules at a moment and their standard deviation; the moment must lie within the ticks.

        Between two ticks power is taken to be even, unless it is another one before them than after them: then it
        jumped in between, once, at the only moment that gives the joules of the gap. Edges of windows lie where power
        jumps: a command begins to work, a burst of prefill ends.
        """
        gap = int(np.clip(np.searchsorted(self.at_s, moment_s) - 1, 0, len(self.at_s) - 2))
        power_w = np.diff(self.total_j) / np.diff(self.at_s)
        begin_s, end_s = self.at_s[gap], self.at_s[gap + 1]
        before_w, after_w = power_w[max(gap - 1, 0)], power_w[min(gap + 1, len(power_w) - 1)]
        jump_w = after_w - before_w
        share = (after_w - power_w[gap]) / jump_w if abs(jump_w) > self.usual_step_w else -1.0
        has_jump = 0.0 <= share <= 1.0
        turn_s = begin_s + share * (end_s - begin_s) if has_jump else end_s
        first_w, then_w = (before_w, after_w) if has_jump else (power_w[gap], power_w[gap])
        joules = self.total_j[gap] + first_w * min(moment_s - begin_s, turn_s - begin_s)
        joules += then_w * max(moment_s - turn_s, 0.0)
        jump_sd_j = JUMP_ERROR * max(abs(jump_w) - self.usual_step_w, 0.0) * (end_s - begin_s)
        time_sd_j = max(first_w, then_w) * self.time_sd_s
        return float(joules), math.hypot(self.between_sd_j, jump_sd_j, time_sd_j)


def staircase(at_s: Series, total_j: Series, power_w: Series, edge_s: float, counter: Counter) -> Staircase | None:
    """Ticks around `edge_s`, from readings of a counter that grows; None where too few of them are near.

    Args:
        at_s: when the counter was read, increasing.
        total_j: what it said.
        power_w: power at those moments. Only its course counts, not its scale.
        edge_s: the moment whose surroundings are wanted.
        counter: what the start-up trial found.
    """
    reach_s = max(REACH_S, REACH_TICKS * counter.period_s)
    near = np.abs(at_s - edge_s) <= reach_s
    at_s, total_j, power_w = at_s[near], total_j[near], power_w[near]
    if len(at_s) < MIN_READINGS or total_j[-1] <= total_j[0]:
        return None
    flow_j = cumulative(at_s, power_w)
    flow_j *= (total_j[-1] - total_j[0]) / flow_j[-1]
    fit = _Fit(at_s - edge_s, total_j, flow_j)
    period_s, phase_s, phase_sd_s = fit.search(counter.period_s)
    near_s = NEAR_TICK_S + counter.call_s + 3 * counter.jitter_s + 2 * phase_sd_s
    ticks = fit.assign(period_s, phase_s, near_s)
    _, first = np.unique(ticks, return_index=True)
    if len(first) < MIN_READINGS // 2:
        return None
    tick_s, tick_j = ticks[first] * period_s + phase_s, total_j[first]
    time_sd_s = math.hypot(phase_sd_s, counter.jitter_s, counter.call_s / math.sqrt(12))
    usual_step_w = _usual_step_w(tick_s, tick_j)
    return Staircase(edge_s + tick_s, tick_j, time_sd_s, _between_sd_j(tick_s, tick_j, usual_step_w), usual_step_w)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Readings around an edge: time since the edge, counter, and integrated power in the counter's scale."""

    since_s: Series
    total_j: Series
    flow_j: Series

    def search(self, period_s: float) -> tuple[float, float, float]:
        """Period, phase, and the phase's standard deviation: the best pair, then all that are as good as it."""
        periods = period_s * (1 + np.linspace(-PERIOD_SHARE, PERIOD_SHARE, PERIOD_STEPS))
        phases = np.arange(PHASE_STEPS) / PHASE_STEPS
        coarse = np.array([self._misfits(each_s, phases) for each_s in periods])
        best, step_s = periods[coarse.min(axis=1).argmin()], periods[1] - periods[0]
        periods = best + step_s * np.arange(-2 * AROUND, 2 * AROUND + 1) / 2
        phases = np.arange(PHASE_STEPS * FINER) / (PHASE_STEPS * FINER)
        fine = np.array([self._misfits(each_s, phases) for each_s in periods])
        which, middle = np.unravel_index(fine.argmin(), fine.shape)
        tick_j = (self.total_j[-1] - self.total_j[0]) / (self.since_s[-1] - self.since_s[0]) * period_s
        is_good = np.any(fine <= fine.min() + 2 * AS_GOOD * tick_j, axis=0)
        # The phases are a circle: begin opposite to the best one.
        opposite = np.roll(is_good, len(phases) // 2 - middle)
        bad = np.flatnonzero(~opposite) - len(phases) // 2
        low, high = max(bad[bad < 0], default=-len(phases) // 2), min(bad[bad > 0], default=len(phases) // 2)
        centre, width = (middle + (low + high) / 2) / len(phases), (high - low - 1) / len(phases)
        best_s = float(periods[which])
        return best_s, centre * best_s, width * best_s / math.sqrt(12)

    def _misfits(self, period_s: float, phases: Series) -> Series:
        """Sum of |growth of the counter - energy between the ticks that were read| for each phase (share of P)."""
        start_s = phases[:, None] * period_s
        tick_s = np.floor((self.since_s - start_s) / period_s) * period_s + start_s
        drawn_j = np.diff(np.interp(tick_s, self.since_s, self.flow_j), axis=1)
        return np.abs(np.diff(self.total_j) - drawn_j).sum(axis=1)

    def assign(self, period_s: float, phase_s: float, near_s: float) -> Series:
        """Number of the tick that each reading saw. One so near to a tick that it may have missed it goes by value."""
        exact = (self.since_s - phase_s) / period_s
        ticks = np.floor(exact)
        beyond = np.where(exact - ticks < 0.5, ticks - 1, ticks + 1)
        is_open = np.abs(exact - np.rint(exact)) * period_s < near_s
        if is_open.all():
            return ticks
        known = ~is_open
        levels = np.interp(self.since_s, self.since_s[known], self._behind(ticks, period_s, phase_s)[known])
        misfit = np.abs(self._behind(ticks, period_s, phase_s) - levels)
        other = np.abs(self._behind(beyond, period_s, phase_s) - levels)
        return np.where(is_open & (other < misfit), beyond, ticks)

    def _behind(self, ticks: Series, period_s: float, phase_s: float) -> Series:
        """Counter less integrated power at those ticks: nearly the same for all, if they are the right ones."""
        return self.total_j - np.interp(ticks * period_s + phase_s, self.since_s, self.flow_j)


def _usual_step_w(tick_s: Series, tick_j: Series) -> float:
    """Three times the median difference of power before and after a gap: more is a jump."""
    power_w = np.diff(tick_j) / np.diff(tick_s)
    return JUMP_STEPS * float(np.median(np.abs(power_w[2:] - power_w[:-2]))) if len(power_w) > 2 else math.inf


def _between_sd_j(tick_s: Series, tick_j: Series, usual_step_w: float) -> float:
    """How far a straight line between neighbouring ticks is off where power does not jump, by leaving ticks out.

    Leaving every second one out tells the error over two gaps, leaving out three of four the error over four; how much
    larger the latter is says how the error grows with the gap (power that jumps: by its cube, white noise: linearly).
    """
    over_two, over_four = (_left_out(tick_s, tick_j, each, usual_step_w) for each in (1, 2))
    if not len(over_two) or not len(over_four):
        return 0.0
    two, four = float(np.mean(over_two**2)), float(np.mean(over_four**2))
    growth = np.clip(four / two, 2.0, 16.0) if two > 0 else 16.0
    return math.sqrt(MIDPOINT_TO_ANYWHERE * two / growth)


def _left_out(tick_s: Series, tick_j: Series, each: int, usual_step_w: float) -> Series:
    """Errors of ticks interpolated between those `each` before and after them, where power is much the same."""
    before_s, here_s, after_s = tick_s[: -2 * each], tick_s[each:-each], tick_s[2 * each :]
    share = (here_s - before_s) / (after_s - before_s)
    before_j, here_j, after_j = tick_j[: -2 * each], tick_j[each:-each], tick_j[2 * each :]
    step_w = (after_j - here_j) / (after_s - here_s) - (here_j - before_j) / (here_s - before_s)
    return (here_j - before_j - share * (after_j - before_j))[np.abs(step_w) <= usual_step_w]
