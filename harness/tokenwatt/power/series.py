"""Energy between two moments from one source's readings: one function for each instrument, and their coverage.

Times are seconds and increase. An edge of the window is interpolated, never moved to the nearest reading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]

MAX_GAP_PERIODS = 3.0
"""A longer silence means that the machine stalled the sampler, and a change of power may hide in it."""
_TICKS_AVERAGED = 8
"""Neighbours on each side that correct a tick's time. A second or so: short against a drift of the tick's clock."""
_MAX_TICKS_BEYOND = 2.0
"""How far past the outermost tick an edge may lie, in ticks: the next tick is due after one, and is seen late."""
_SLOPE_TICKS = 2


def is_bracketed(at_s: Series, start_s: float, end_s: float) -> bool:
    """Whether readings lie on both sides of the window (or on its edges)."""
    return len(at_s) > 0 and bool(at_s[0] <= start_s and end_s <= at_s[-1])


def has_gap(at_s: Series, start_s: float, end_s: float) -> bool:
    """Whether two neighbouring readings that touch the window lie over three sampling periods apart.

    The period is the median spacing of all readings. The window must be bracketed.
    """
    spacings_s = np.diff(at_s)
    if len(spacings_s) == 0:
        return False
    touches = (at_s[1:] > start_s) & (at_s[:-1] < end_s)
    return bool(np.any(spacings_s[touches] > MAX_GAP_PERIODS * np.median(spacings_s)))


def integral(at_s: Series, rate: Series, start_s: float, end_s: float) -> float:
    """Trapezoid of readings of a rate (W gives J) over a bracketed window, edges interpolated."""
    inside = at_s[(at_s > start_s) & (at_s < end_s)]
    knots_s = np.concatenate(([start_s], inside, [end_s]))
    return float(np.trapezoid(np.interp(knots_s, at_s, rate), knots_s))


def increase(at_s: Series, total: Series, start_s: float, end_s: float) -> float:
    """Growth of a counter that is current whenever it is read (RAPL: 1 ms) over a bracketed window."""
    at_start, at_end = np.interp([start_s, end_s], at_s, total)
    return float(at_end - at_start)


def ticking_increase(at_s: Series, total: Series, start_s: float, end_s: float) -> float | None:
    """Growth of a counter that is renewed only now and then (NVML: every 20 to 100 ms), linear between its ticks.

    None where the counter cannot tell: it went back, ticked less than twice, or not near an edge.
    """
    beyond = (at_s[1:] > start_s) & (at_s[:-1] < end_s)
    if np.any(np.diff(total)[beyond] < 0):
        return None
    ticks_s, totals = _ticks(at_s, total)
    if len(ticks_s) < 2:
        return None
    reach_s = _MAX_TICKS_BEYOND * float(np.median(np.diff(ticks_s)))
    if start_s < ticks_s[0] - reach_s or end_s > ticks_s[-1] + reach_s:
        return None
    return _at(end_s, ticks_s, totals) - _at(start_s, ticks_s, totals)


def _ticks(at_s: Series, total: Series) -> tuple[Series, Series]:
    """Times at which the counter was renewed, and the totals that became known then.

    A total first seen in reading i was written in (t[i-1], t[i]]. The middle of that bracket is off by up to half of
    it, but without bias between the two edges of a window. Ticks are regular, so the mean of the middles on both sides
    is nearer to the tick; it is kept inside the bracket in case they are not.
    """
    seen = np.flatnonzero(np.diff(total) > 0) + 1
    before_s, after_s = at_s[seen - 1], at_s[seen]
    return np.clip(_centred_mean((before_s + after_s) / 2), before_s, after_s), total[seen]


def _centred_mean(values: Series) -> Series:
    """Mean of each value with its neighbours, as many on either side: up to _TICKS_AVERAGED, fewer near the ends."""
    if len(values) == 0:
        return values
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, index[::-1]), _TICKS_AVERAGED)
    sums = np.concatenate(([0.0], np.cumsum(values - values[0])))
    return values[0] + (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _at(moment_s: float, ticks_s: Series, totals: Series) -> float:
    """Counter at a moment: between ticks linear, past the outermost one (a tick not yet seen) at the last mean rate."""
    far = min(_SLOPE_TICKS, len(ticks_s) - 1)
    for inside, outermost, is_outside in ((far, 0, moment_s < ticks_s[0]), (-1 - far, -1, moment_s > ticks_s[-1])):
        if is_outside:
            rate = (totals[inside] - totals[outermost]) / (ticks_s[inside] - ticks_s[outermost])
            return float(totals[outermost] + rate * (moment_s - ticks_s[outermost]))
    return float(np.interp(moment_s, ticks_s, totals))
