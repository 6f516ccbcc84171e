"""Energy between two moments from one source's readings, and whether the readings cover them.

Times are seconds and increase. An edge of the window is interpolated, never moved to the nearest reading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]

MAX_GAP_PERIODS = 3.0
"""A longer silence means that the machine stalled the sampler, and a change of power may hide in it."""


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


def touching(at_s: Series, start_s: float, end_s: float) -> slice:
    """Readings inside a bracketed window and the nearest one beyond each edge."""
    return slice(
        int(np.searchsorted(at_s, start_s, side="right")) - 1, int(np.searchsorted(at_s, end_s, side="left")) + 1
    )


def integral(at_s: Series, rate: Series, start_s: float, end_s: float) -> float:
    """Trapezoid of readings of a rate (W gives J) over a bracketed window, edges interpolated."""
    inside = at_s[(at_s > start_s) & (at_s < end_s)]
    knots_s = np.concatenate(([start_s], inside, [end_s]))
    return float(np.trapezoid(np.interp(knots_s, at_s, rate), knots_s))


def integral_sd(at_s: Series, rate: Series, start_s: float, end_s: float, age_s: float = 0.0) -> float:
    """Standard deviation of `integral`, if the rate jumps at a random moment between two readings that differ.

    age_s: how old a reading may be, which leaves the moment of a jump open for so much longer.
    """
    near = touching(at_s, start_s, end_s)
    missed = np.diff(rate[near]) * (np.diff(at_s[near]) + age_s)
    return float(np.sqrt(np.sum(missed**2) / 12))


def cumulative(at_s: Series, rate: Series) -> Series:
    """Integral of a rate from the first reading to each reading (trapezoid)."""
    return np.concatenate(([0.0], np.cumsum(np.diff(at_s) * (rate[1:] + rate[:-1]) / 2)))


def increase(at_s: Series, total: Series, start_s: float, end_s: float) -> float:
    """Growth of a counter that is current whenever it is read (RAPL: 1 ms) over a bracketed window."""
    at_start, at_end = np.interp([start_s, end_s], at_s, total)
    return float(at_end - at_start)


def longest_hold_s(at_s: Series, values: Series) -> float:
    """The longest time for which successive readings are equal; 0 if no two are."""
    changes = np.flatnonzero(np.diff(values) != 0) + 1
    begins, ends = np.concatenate(([0], changes)), np.concatenate((changes, [len(values)])) - 1
    return float(np.max(at_s[ends] - at_s[begins])) if len(values) else 0.0


def delay_s(at_s: Series, total: Series, rate: Series) -> tuple[float, float]:
    """How far a rate lags behind the growth of a counter, and the standard deviation of that; (0, inf) if unknowable.

    A trailing average over S is the rate S/2 ago. So total = a + b * integral of the rate + c * rate, and c / b is the
    delay. It can be known only where the rate changes.
    """
    terms = np.column_stack([np.ones_like(rate), cumulative(at_s, rate), rate])
    scale = np.abs(terms).max(axis=0)
    if len(at_s) < terms.shape[1] + 2 or np.ptp(rate) == 0 or np.any(scale == 0):
        return 0.0, float("inf")
    solution, _, rank, _ = np.linalg.lstsq(terms / scale, total, rcond=None)
    if rank < terms.shape[1]:
        return 0.0, float("inf")
    residual = total - terms / scale @ solution
    variance = residual @ residual / (len(at_s) - terms.shape[1])
    covariance = variance * np.linalg.inv((terms / scale).T @ (terms / scale))
    growth = solution[1] / scale[1]
    return float(solution[2] / scale[2] / growth), float(np.sqrt(covariance[2, 2]) / scale[2] / growth)
