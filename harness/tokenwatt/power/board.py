"""Energy of one source over a window: a GPU board by its two instruments, a CPU package by its counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.series import Series, has_gap, increase, integral, is_bracketed, ticking_increase
from tokenwatt.record import PowerSample, Reason

MAX_RELATIVE_DIFFERENCE = 0.05
"""The only accuracy that NVML documents for a power reading (Fermi, Kepler). Under load the two agree within 1 %."""


@dataclass(frozen=True, slots=True)
class BoardEnergy:
    """Joules of one board; None from an instrument that is missing or does not cover the window."""

    reasons: frozenset[Reason]
    counter_j: float | None = None
    sampled_j: float | None = None

    @property
    def energy_j(self) -> float | None:
        """The counter's word where there is one, else the integral's."""
        return self.sampled_j if self.counter_j is None else self.counter_j


def board_energy(samples: Sequence[PowerSample], start_s: float, end_s: float) -> BoardEnergy:
    """Energy over the window from the samples of one board, oldest first."""
    at_s = np.array([sample.at_s for sample in samples])
    if not is_bracketed(at_s, start_s, end_s):
        return BoardEnergy(frozenset({Reason.EDGE_NOT_BRACKETED}))
    if has_gap(at_s, start_s, end_s):
        return BoardEnergy(frozenset({Reason.SAMPLE_GAP}))

    # None becomes nan. A board may leave out single readings: the others must cover the window without them.
    power_w = np.array([sample.power_w for sample in samples], dtype=np.float64)
    counter_j = np.array([sample.energy_j for sample in samples], dtype=np.float64)
    window = (start_s, end_s)
    known = np.isfinite(power_w)
    sampled = integral(at_s[known], power_w[known], *window) if _covers(at_s[known], *window) else None
    rate = power_w if sampled else np.ones_like(power_w)
    known = np.isfinite(counter_j) & np.isfinite(rate)
    covers = _covers(at_s[known], *window)
    counted = ticking_increase(at_s[known], counter_j[known], rate[known], *window) if covers else None

    reasons = set()
    if counted is None:
        reasons.add(Reason.COUNTER_MISSING)
    if sampled is None:
        reasons.add(Reason.POWER_MISSING)
    difference = relative_difference(counted, sampled)
    if difference is not None and abs(difference) > MAX_RELATIVE_DIFFERENCE:
        reasons.add(Reason.INSTRUMENTS_DISAGREE)
    return BoardEnergy(frozenset(reasons), counter_j=counted, sampled_j=sampled)


def relative_difference(counter_j: float | None, sampled_j: float | None) -> float | None:
    """(sampled - counter) / counter; None unless both are known."""
    return None if counter_j is None or sampled_j is None else (sampled_j - counter_j) / counter_j


def package_energy_j(samples: Sequence[PowerSample], start_s: float, end_s: float) -> float | None:
    """Energy of one CPU package, by its counter; None where its samples, oldest first, do not cover the window."""
    at_s = np.array([sample.at_s for sample in samples])
    counter_j = np.array([sample.energy_j for sample in samples], dtype=np.float64)
    return increase(at_s, counter_j, start_s, end_s) if _covers(at_s, start_s, end_s) else None


def _covers(at_s: Series, start_s: float, end_s: float) -> bool:
    return is_bracketed(at_s, start_s, end_s) and not has_gap(at_s, start_s, end_s)
