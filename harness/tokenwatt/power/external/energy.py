"""Energy of a whole machine over a window, from readings that come once a second or less often, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenwatt.power.board import MAX_RELATIVE_DIFFERENCE
from tokenwatt.power.series import MAX_GAP_PERIODS, Series, integral
from tokenwatt.record import EnergyStatus, Reason

MIN_READINGS = 10
"""With fewer readings in the window, the interpolated edges are more than a tenth of it."""
MIN_RENEWALS = 2
"""With fewer renewals in the window not one whole period of the meter lies in it, and no figure is near."""
MIN_PERIODS = 5.0
"""A window of fewer periods of the meter is mostly edges."""
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
    is_polled: bool = False
    """Whether the meter was asked rather than that it spoke: an equal power may then be the old answer again."""

    @classmethod
    def of_polls(cls, rows: Sequence[tuple[float, float]]) -> Readings:
        """From pairs of time and power, as a meter answered that was asked."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return cls(table[:, 0], power_w=table[:, 1], is_polled=True)

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


def is_power(watts: float | Series) -> NDArray[np.bool_]:
    """Whether each value can be the power of a machine that runs: a finite number above 0."""
    return np.isfinite(watts) & (np.asarray(watts) > 0)


def invalid(reason: Reason, detail: str | None = None) -> NodeEnergy:
    """No joules, and why."""
    return NodeEnergy(None, EnergyStatus.INVALID, (reason,), detail)


def node_energy(readings: Readings, start_s: float, end_s: float) -> NodeEnergy:
    """Energy from `start_s` to `end_s` on the run's clock: by the counter, or by power where there is no fine counter.

    Edges are interpolated between readings. Of a counter only the readings count at which it was renewed: between them
    it tells nothing, and a counter of watt-hours stands still for seconds. So it is with power that was polled: a BMC
    may renew it every 30 s, and neither DCMI nor Redfish says when it did. Only a changed answer is known to be new. A
    machine that runs draws some watts more or less each second; one whose power really stands still to the watt is
    doubted or refused with the others. Rows of a file are the meter's own words, and each of them counts.
    """
    period_s = readings.period_s
    if period_s is None:
        return invalid(Reason.EDGE_NOT_BRACKETED, f"the meter gave {len(readings.at_s)} reading(s)")
    fault = _fault_of_times(readings.at_s, period_s, start_s, end_s)
    if fault is not None:
        return fault
    order = np.argsort(readings.at_s, kind="stable")  # a step back elsewhere leaves this window alone
    at_s = readings.at_s[order]
    power = counter = None
    if readings.power_w is not None:
        power = _by_power(at_s, readings.power_w[order], start_s, end_s, readings.is_polled)
    if readings.energy_j is not None:
        counter = _by_counter(at_s, readings.energy_j[order], start_s, end_s, is_alone=power is None)
    figures = [figure for figure in (counter, power) if figure is not None]
    refused = next((figure for figure in figures if isinstance(figure, NodeEnergy)), None)
    return refused or _judged([figure for figure in figures if isinstance(figure, _Figure)], end_s - start_s, period_s)


@dataclass(frozen=True, slots=True)
class _Figure:
    """Joules of a window by one of a meter's two words, and how often that was spoken in it."""

    energy_j: float
    count: int
    noun: Literal["readings", "renewals"]
    """What is counted."""
    held_s: float = 0.0
    """Longest time in the window in which all answers are equal, where that may mean something."""


def _by_power(at_s: Series, power_w: Series, start_s: float, end_s: float, is_polled: bool) -> _Figure | NodeEnergy:
    energy_j = integral(at_s, power_w, start_s, end_s)
    if not is_polled:
        return _Figure(energy_j, _inside(at_s, start_s, end_s), "readings")
    # The first answer is no renewal: when it was new is unknown.
    renewed_s = at_s[1:][np.diff(power_w) != 0]
    count = _inside(renewed_s, start_s, end_s)
    if count < MIN_RENEWALS:
        reason = Reason.WINDOW_TOO_SHORT if count else Reason.POWER_STUCK
        return invalid(reason, f"the meter's power was renewed {_times(count)} in the window")
    edges_s = np.concatenate(([start_s], renewed_s[(renewed_s > start_s) & (renewed_s < end_s)], [end_s]))
    return _Figure(energy_j, count, "renewals", float(np.diff(edges_s).max()))


def _by_counter(
    at_s: Series, energy_j: Series, start_s: float, end_s: float, is_alone: bool
) -> _Figure | NodeEnergy | None:
    """None where it is too coarse for the window and there is power beside it."""
    counter = _Counter.of(at_s, energy_j)
    if counter.goes_back(start_s, end_s):
        return invalid(Reason.COUNTER_RESET, "the meter's counter goes back")
    count = _inside(counter.at_s, start_s, end_s)
    if count < MIN_READINGS and not is_alone:
        return None
    increase_j = counter.increase(start_s, end_s)
    if increase_j is None:
        reason = Reason.EDGE_NOT_BRACKETED if count else Reason.COUNTER_STUCK
        return invalid(reason, f"the meter's counter was renewed {_times(count)} in the window")
    return _Figure(increase_j, count, "renewals")


def _judged(figures: Sequence[_Figure], length_s: float, period_s: float) -> NodeEnergy:
    """The first figure with its doubts; a second one is held against it."""
    best, *others = figures
    found, detail = set(), None
    if best.count < MIN_READINGS:
        found.add(Reason.WINDOW_TOO_SHORT)
        detail = f"{best.count} {best.noun} of the meter in the window, {MIN_READINGS} are wanted"
    elif best.held_s > max(MAX_GAP_PERIODS * period_s, length_s / MIN_READINGS):
        found.add(Reason.POWER_STUCK)
        detail = f"the meter gives one and the same power for {_duration(best.held_s)}"
    if length_s < MIN_PERIODS * period_s:
        found.add(Reason.WINDOW_TOO_SHORT)
    if any(abs(other.energy_j - best.energy_j) > MAX_RELATIVE_DIFFERENCE * best.energy_j for other in others):
        found.add(Reason.INSTRUMENTS_DISAGREE)
    status = EnergyStatus.SUSPECT if found else EnergyStatus.VALID
    return NodeEnergy(best.energy_j, status, tuple(reason for reason in Reason if reason in found), detail)


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


def _inside(at_s: Series, start_s: float, end_s: float) -> int:
    """How many moments lie in the window."""
    return int(np.sum((at_s >= start_s) & (at_s <= end_s)))


def _times(count: int) -> str:
    """How often, for people.

    >>> _times(1), _times(0)
    ('once', '0 times')
    """
    return "once" if count == 1 else f"{count} times"


def _duration(seconds: float) -> str:
    """Time for people.

    >>> _duration(7200.0), _duration(5400.0), _duration(900.0), _duration(0.25)
    ('2 h', '1.5 h', '15 min', '0.25 s')
    """
    for length_s, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:.2g} s"
