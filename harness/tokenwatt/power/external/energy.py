"""Energy of a whole machine over a window, from readings that come once a second or less often, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenwatt.record import EnergyStatus, Reason

Series = NDArray[np.float64]

MAX_GAP_PERIODS = 3.0
"""A longer silence may hide a change of power; the same rule as for boards."""
MIN_READINGS = 10
"""With fewer readings in the window, the interpolated edges are more than a tenth of it."""
MIN_PERIODS = 5.0
"""A window of fewer periods of the meter is mostly edges."""
MAX_RELATIVE_DIFFERENCE = 0.05
"""Between a meter's own counter and its own power: as for boards."""
ZONE_STEP_S = 900.0
"""Time zones differ by whole quarters of an hour."""
MAX_ZONE_S = 14 * 3600.0
"""The zone that is farthest from UTC (+14:00)."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What a meter said, in the order in which it said it."""

    at_s: Series
    """When, on the run's clock."""
    power_w: Series | None = None
    """Power at that moment, if the meter tells it."""
    energy_j: Series | None = None
    """Energy counter, if it has one."""

    @classmethod
    def of_power(cls, rows: Sequence[tuple[float, float]]) -> Readings:
        """From pairs of time and power."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return cls(table[:, 0], power_w=table[:, 1])

    @property
    def period_s(self) -> float | None:
        """Median spacing of the readings; None with fewer than two moments."""
        spacings_s = np.diff(self.at_s)
        spacings_s = spacings_s[spacings_s > 0]
        return float(np.median(spacings_s)) if len(spacings_s) else None


@dataclass(frozen=True, slots=True)
class NodeEnergy:
    """Energy of one window. Joules are None unless the status is `valid` or `suspect`."""

    energy_j: float | None
    status: EnergyStatus
    reasons: tuple[Reason, ...] = ()
    """Why it is not `valid`, in the order of `Reason`."""
    detail: str | None = None
    """One line for a person, where the reasons do not say it all."""

    def columns(self, meter: str) -> dict[str, Any]:
        """The columns of a `MeteredWindow` that a node meter fills; `meter` is the text that asked for it."""
        return {
            "node_meter": meter,
            "node_energy_j": self.energy_j,
            "node_energy_status": self.status,
            "node_energy_reasons": self.reasons,
        }


def invalid(reason: Reason, detail: str | None = None) -> NodeEnergy:
    """No joules, and why."""
    return NodeEnergy(None, EnergyStatus.INVALID, (reason,), detail)


def node_energy(readings: Readings, start_s: float, end_s: float) -> NodeEnergy:
    """Energy from `start_s` to `end_s` on the run's clock: by the counter, or by power where there is no fine counter.

    Edges are interpolated between readings. Of a counter only the readings count at which it was renewed: between them
    it tells nothing, and a counter of watt-hours stands still for seconds.
    """
    period_s = readings.period_s
    if period_s is None:
        return invalid(Reason.EDGE_NOT_BRACKETED, f"the meter gave {len(readings.at_s)} reading(s)")
    fault = _fault_of_times(readings.at_s, period_s, start_s, end_s)
    if fault is not None:
        return fault
    order = np.argsort(readings.at_s, kind="stable")  # a step back elsewhere leaves this window alone
    at_s = readings.at_s[order]
    count, integrated_j, counted_j = int(np.sum((at_s >= start_s) & (at_s <= end_s))), None, None
    if readings.power_w is not None:
        integrated_j = _integral(at_s, readings.power_w[order], start_s, end_s)
    if readings.energy_j is not None:
        counter = _Counter.of(at_s, readings.energy_j[order])
        if counter.goes_back(start_s, end_s):
            return invalid(Reason.COUNTER_RESET, "the meter's counter goes back")
        renewals = counter.renewals(start_s, end_s)
        if renewals >= MIN_READINGS or integrated_j is None:
            count, counted_j = renewals, counter.increase(start_s, end_s)
            if counted_j is None:
                reason = Reason.EDGE_NOT_BRACKETED if renewals else Reason.COUNTER_STUCK
                return invalid(reason, f"the meter's counter was renewed {renewals} times in the window")
    found = set()
    if count < MIN_READINGS or end_s - start_s < MIN_PERIODS * period_s:
        found.add(Reason.WINDOW_TOO_SHORT)
    if counted_j is not None and integrated_j is not None:
        difference_j = abs(integrated_j - counted_j)
        found |= {Reason.INSTRUMENTS_DISAGREE} if difference_j > MAX_RELATIVE_DIFFERENCE * counted_j else set()
    detail = f"{count} readings of the meter in the window, {MIN_READINGS} are wanted" if count < MIN_READINGS else None
    status = EnergyStatus.SUSPECT if found else EnergyStatus.VALID
    energy_j = integrated_j if counted_j is None else counted_j
    return NodeEnergy(energy_j, status, tuple(reason for reason in Reason if reason in found), detail)


def _fault_of_times(at_s: Series, period_s: float, start_s: float, end_s: float) -> NodeEnergy | None:
    """What is wrong with the times of the readings around the window; None if nothing is."""
    reach_s = MAX_GAP_PERIODS * period_s
    back_s = _step_back(at_s, start_s - reach_s, end_s + reach_s)
    if back_s is not None:
        return invalid(Reason.CLOCK_STEPPED_BACK, f"the meter's time goes back by {_duration(back_s)}")
    first_s, last_s = float(at_s.min()), float(at_s.max())
    if last_s < start_s:
        detail = f"the meter's time ends {_duration(start_s - last_s)} before the window begins"
        return invalid(Reason.CLOCKS_APART, detail)
    if end_s < first_s:
        detail = f"the meter's time begins {_duration(first_s - end_s)} after the window's end"
        return invalid(Reason.CLOCKS_APART, detail)
    if start_s < first_s:
        detail = f"the meter's first reading comes {_duration(first_s - start_s)} after the window's start"
        return invalid(Reason.EDGE_NOT_BRACKETED, detail)
    if last_s < end_s:
        detail = f"the meter's last reading comes {_duration(end_s - last_s)} before the window's end"
        return invalid(Reason.EDGE_NOT_BRACKETED, detail)
    times_s = np.sort(at_s)
    spacings_s = np.diff(times_s)[(times_s[1:] > start_s) & (times_s[:-1] < end_s)]
    if spacings_s.max() > reach_s:
        detail = f"the meter is silent for {_duration(float(spacings_s.max()))}, its period is {_duration(period_s)}"
        return invalid(Reason.SAMPLE_GAP, detail)
    return None


def zone_shift_s(span_s: tuple[float, float], start_s: float, end_s: float, latest_s: float) -> float | None:
    """Smallest shift by quarter hours that puts `span_s` around the window and not behind `latest_s`; None if none."""
    first_s, last_s = span_s
    quarters = np.arange(1, MAX_ZONE_S / ZONE_STEP_S + 1)
    shifts_s = ZONE_STEP_S * np.stack([quarters, -quarters], axis=1).ravel()
    fits = (first_s + shifts_s <= start_s) & (end_s <= last_s + shifts_s) & (last_s + shifts_s <= latest_s)
    return float(shifts_s[fits][0]) if fits.any() else None


def _integral(at_s: Series, power_w: Series, start_s: float, end_s: float) -> float:
    knots_s = np.concatenate(([start_s], at_s[(at_s > start_s) & (at_s < end_s)], [end_s]))
    return float(np.trapezoid(np.interp(knots_s, at_s, power_w), knots_s))


@dataclass(frozen=True, slots=True)
class _Counter:
    """The moments at which a counter was renewed, its values there, and the moments at which it went back."""

    at_s: Series
    energy_j: Series
    back_s: Series

    @classmethod
    def of(cls, at_s: Series, energy_j: Series) -> _Counter:
        """The first reading is no renewal: when its value was new is unknown."""
        steps_j = np.diff(energy_j, prepend=energy_j[0])
        return cls(at_s[steps_j > 0], energy_j[steps_j > 0], at_s[steps_j < 0])

    def renewals(self, start_s: float, end_s: float) -> int:
        """How many lie in the window."""
        return int(np.sum((self.at_s >= start_s) & (self.at_s <= end_s)))

    def goes_back(self, start_s: float, end_s: float) -> bool:
        """Whether it does between the last renewal before the window and the first one after it."""
        before_s = self.at_s[self.at_s <= start_s].max(initial=-np.inf)
        after_s = self.at_s[self.at_s >= end_s].min(initial=np.inf)
        return bool(np.any((self.back_s > before_s) & (self.back_s < after_s)))

    def increase(self, start_s: float, end_s: float) -> float | None:
        """Growth, interpolated between renewals; None where they do not lie on both sides of the window."""
        if not len(self.at_s) or self.at_s[0] > start_s or end_s > self.at_s[-1]:
            return None
        at_start, at_end = np.interp([start_s, end_s], self.at_s, self.energy_j)
        return float(at_end - at_start)


def _step_back(at_s: Series, start_s: float, end_s: float) -> float | None:
    """Longest step back among those that repeat a moment between the two given ones; None without any."""
    before_s, after_s = at_s[:-1], at_s[1:]
    steps = (after_s < before_s) & (after_s <= end_s) & (before_s >= start_s)
    return float((before_s - after_s)[steps].max()) if steps.any() else None


def _duration(seconds: float) -> str:
    """Time for people.

    >>> _duration(7200.0), _duration(5400.0), _duration(900.0), _duration(0.25)
    ('2 h', '1.5 h', '15 min', '0.25 s')
    """
    for length_s, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:.2g} s"
