"""Energy between two moments from one source's readings: one function for each instrument, and their coverage.

Times are seconds and increase. An edge of the window is interpolated, never moved to the nearest reading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]

MAX_GAP_PERIODS = 3.0
"""A longer silence means that the machine stalled the sampler, and a change of power may hide in it."""
EDGE_READINGS = 16
"""Readings on either side of an edge over which a counter's lag is averaged: a second at the usual period."""


def is_bracketed(at_s: Series, start_s: float, end_s: float) -> bool:
    """Whether readings lie on both sides of the window (or on its edges)."""
    return len(at_s) > 0 and bool(at_s[0] <= start_s and end_s <= at_s[-1])


def has_gap(at_s: Series, start_s: float, end_s: float) -> bool:
    """Whether two neighbouring readings that touch the window lie over three sampling periods apart.

    The period is the median spacing of all readings. The window must be bracketed.
    """
    spacings_s = np.diff(at_s)
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


def ticking_increase(at_s: Series, total: Series, rate: Series, start_s: float, end_s: float) -> float | None:
    """Growth, over a bracketed window, of a counter that is renewed only now and then (NVML: every 20 to 100 ms).

    A reading is exact for the last tick, which lies between nothing and a whole tick back. Taking it for the moment of
    the reading is late by a random part of a tick at each edge (up to 5 % of a 2-s window). So the lag is averaged over
    the readings around each edge: half a tick at both, which cancels. What flows while the readings go by must be taken
    out first, and `rate` (power, or ones where there is none) gives its shape, scaled to the counter's own growth: the
    result does not change when all of `rate` is multiplied by a number.

    None where the counter went back (driver reloaded) or stood still.
    """
    steps = np.diff(total)
    if np.any(steps < 0) or increase(at_s, total, start_s, end_s) == 0:
        return None
    flow = np.concatenate(([0.0], np.cumsum(np.diff(at_s) * (rate[1:] + rate[:-1]) / 2)))
    flow *= steps.sum() / flow[-1]
    behind = total - flow

    def at(moment_s: float) -> float:
        after = int(np.clip(np.searchsorted(at_s, moment_s), 1, len(at_s) - 1))
        # As many on either side: else the mean lies beside the edge.
        reach = min(EDGE_READINGS, after, len(at_s) - after)
        return float(np.interp(moment_s, at_s, flow) + behind[after - reach : after + reach].mean())

    return at(end_s) - at(start_s)
