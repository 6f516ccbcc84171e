"""Growth of one board's energy counter over a window: what it can be trusted for, and how certain it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenwatt.power.ages import energy_at
from tokenwatt.power.instrument import Instrument
from tokenwatt.power.series import Series, has_gap, increase, is_bracketed, longest_hold_s
from tokenwatt.power.ticks import staircase
from tokenwatt.record import Reason

STUCK_PERIODS = 4.0
"""A counter that holds its value for longer than so many of its periods has stopped."""
SLOW_CALLS, SLOW_CALL_S = 3.0, 1e-3
"""A reading is slow if it takes so many times what it took in the trial and a millisecond more."""
STUCK_SHARE = 0.5
"""The same as a share of the window, where the period is not known."""


HALF_WIDTH_SDS = 1.96
"""Half of the interval that holds 95 % of a normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Joules of one instrument over a window and their standard deviation; or why there are none."""

    energy_j: float | None = None
    sd_j: float = 0.0
    reason: Reason | None = None


def coverage(at_s: Series, start_s: float, end_s: float, missing: Reason) -> Reason | None:
    """Why readings do not cover a window; None if they do."""
    if not len(at_s):
        return missing
    if not is_bracketed(at_s, start_s, end_s):
        return Reason.EDGE_NOT_BRACKETED
    return Reason.SAMPLE_GAP if has_gap(at_s, start_s, end_s) else None


def counted(
    at_s: Series,
    total_j: Series,
    power_w: Series,
    call_s: Series,
    start_s: float,
    end_s: float,
    instrument: Instrument,
) -> Reading:
    """Growth of a counter from `start_s` to `end_s`.

    Args:
        at_s: when it was read, increasing.
        total_j: what it said; nan where it did not answer.
        power_w: power at the same moments, nan where unknown; it only helps to find the ticks.
        call_s: how long each reading of the counter took, nan where unknown.
        start_s: start of the window.
        end_s: end of the window.
        instrument: what the start-up trial found.
    """
    known = np.isfinite(total_j)
    at_s, total_j, power_w, call_s = at_s[known], total_j[known], power_w[known], call_s[known]
    reason = coverage(at_s, start_s, end_s, Reason.COUNTER_MISSING)
    if reason is not None:
        return Reading(reason=reason)
    since_reset = _between_resets(at_s, total_j, start_s, end_s)
    if since_reset is None:
        return Reading(reason=Reason.COUNTER_RESET)
    at_s, total_j, power_w, call_s = at_s[since_reset], total_j[since_reset], power_w[since_reset], call_s[since_reset]
    # The margins too: a counter that stopped at an edge is noticed by what follows.
    hold_s = longest_hold_s(at_s, total_j)
    if hold_s > _longest_allowed_s(at_s, start_s, end_s, instrument):
        return Reading(reason=Reason.COUNTER_STUCK)
    if instrument.counter is not None:
        # One that took long, because this process had to wait for a processor, says a value and not when it was.
        prompt = ~(call_s > SLOW_CALLS * instrument.counter.call_s + SLOW_CALL_S)
        by_edges = _by_edges(at_s[prompt], total_j[prompt], power_w[prompt], start_s, end_s, instrument)
        if by_edges is not None:
            return by_edges
    return _as_read(at_s, total_j, start_s, end_s, hold_s)


def _between_resets(at_s: Series, total_j: Series, start_s: float, end_s: float) -> slice | None:
    """Readings between two resets that cover the window; None if it holds a reset."""
    resets = np.flatnonzero(np.diff(total_j) < 0) + 1
    bounds = [0, *resets.tolist(), len(at_s)]
    for first, last in pairwise(bounds):
        if at_s[first] <= start_s and end_s <= at_s[last - 1]:
            return slice(first, last)
    return None


def _longest_allowed_s(at_s: Series, start_s: float, end_s: float, instrument: Instrument) -> float:
    if instrument.counter is None:
        return STUCK_SHARE * (end_s - start_s)
    return STUCK_PERIODS * instrument.counter.period_s + 2 * float(np.median(np.diff(at_s)))


def _by_edges(
    at_s: Series, total_j: Series, power_w: Series, start_s: float, end_s: float, instrument: Instrument
) -> Reading | None:
    """Both edges from the readings around them; None where those do not say enough."""
    if not is_bracketed(at_s, start_s, end_s):
        return None
    mean_w = (total_j[-1] - total_j[0]) / (at_s[-1] - at_s[0])
    known = np.isfinite(power_w) & (power_w > 0)
    course_w = np.interp(at_s, at_s[known], power_w[known]) if known.sum() > 1 else np.full_like(at_s, mean_w)
    first, last = (_joules_at(at_s, total_j, course_w, edge_s, instrument) for edge_s in (start_s, end_s))
    if first is None or last is None:
        return None
    (first_j, first_sd_j), (last_j, last_sd_j) = first, last
    return Reading(last_j - first_j, math.hypot(first_sd_j, last_sd_j))


def _joules_at(
    at_s: Series, total_j: Series, course_w: Series, edge_s: float, instrument: Instrument
) -> tuple[float, float] | None:
    """Joules at an edge and their standard deviation: between two ticks, or by ages where ticks keep to no places."""
    if instrument.counter is None:
        return None
    if not instrument.counter.is_regular:
        return energy_at(at_s, total_j, course_w, edge_s, instrument.counter, instrument.power_period_s or 0.0)
    steps = staircase(at_s, total_j, course_w, edge_s, instrument.counter)
    return None if steps is None else steps.at(edge_s)


def _as_read(at_s: Series, total_j: Series, start_s: float, end_s: float, hold_s: float) -> Reading:
    """Both edges interpolated between readings, each of which may be old by as much as the value was seen to hold."""
    energy_j = increase(at_s, total_j, start_s, end_s)
    late_sd_s = hold_s / math.sqrt(12)
    return Reading(energy_j, math.sqrt(2) * late_sd_s * energy_j / (end_s - start_s))
