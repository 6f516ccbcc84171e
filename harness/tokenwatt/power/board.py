"""Energy of one board over a window by its two instruments, which are held against each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.counting import HALF_WIDTH_SDS, Reading, counted, coverage
from tokenwatt.power.instrument import Instrument
from tokenwatt.power.log import SourceReadings
from tokenwatt.power.series import Series, delay_s, increase, integral, integral_sd, longest_hold_s, touching
from tokenwatt.record import Reason

MAX_RELATIVE_DIFFERENCE = 0.02
"""Published pairs agree within 1 % under load (zeus #12); a wrong gain, scope or board differs by more."""
FROZEN_S = 2.0
"""A power reading that does not change for so long is compared with the counter over that time."""
FROZEN_PERIODS = 40
"""Without a counter it is frozen if it outlasts so many of its own periods."""
TRAILING_S = 0.15
"""A delay beyond this is not a sensor's (its period is 100 ms at most) but an average over time gone by."""
SURE = 5.0
"""Standard deviations by which a delay must exceed that."""


@dataclass(frozen=True, slots=True)
class BoardEnergy:
    """Joules of one board by its counter and by its sampled power, and what makes them doubtful."""

    counter: Reading
    sampled: Reading
    reasons: frozenset[Reason]

    @property
    def best(self) -> Reading:
        """The counter's word where there is one and it speaks of the GPU, else the integral's."""
        is_wider = Reason.MODULE_SCOPE in self.reasons and self.sampled.energy_j is not None
        return self.sampled if self.counter.energy_j is None or is_wider else self.counter


@dataclass(frozen=True, slots=True)
class _Readings:
    """What a board's energy is found from; what it did not answer is nan."""

    at_s: Series
    power_w: Series
    total_j: Series
    module_w: Series
    call_s: Series


def board_energy(board: SourceReadings, start_s: float, end_s: float, instrument: Instrument) -> BoardEnergy:
    """Energy over the window from the readings of one board."""
    readings = _Readings(
        at_s=board.column("at_s"),
        power_w=board.column("power_w"),
        total_j=board.column("energy_j"),
        module_w=board.column("module_power_w"),
        call_s=board.column("call_s"),
    )
    if np.any(np.diff(readings.at_s) < 0):
        return _nothing(Reason.CLOCK_STEPPED_BACK)
    reason = coverage(readings.at_s, start_s, end_s, Reason.EDGE_NOT_BRACKETED)
    if reason is not None:
        return _nothing(reason)
    window = (start_s, end_s)
    counter = counted(readings.at_s, readings.total_j, readings.power_w, readings.call_s, *window, instrument)
    sampled = _sampled(readings.at_s, readings.power_w, *window, instrument)
    reasons = {reason for reason in (counter.reason, sampled.reason) if reason is not None}
    if sampled.energy_j is not None:
        reasons |= _doubts_about_power(readings, start_s, end_s, counter, sampled, instrument)
    return BoardEnergy(counter, sampled, frozenset(reasons))


def relative_difference(counter_j: float | None, sampled_j: float | None) -> float | None:
    """(sampled - counter) / counter; None unless both are known and the counter grew."""
    return None if not counter_j or sampled_j is None else (sampled_j - counter_j) / counter_j


def package_energy_j(package: SourceReadings, start_s: float, end_s: float) -> float | None:
    """Energy of one CPU package, by its counter; None where its readings do not cover the window."""
    at_s = package.column("at_s")
    covers = coverage(at_s, start_s, end_s, Reason.COUNTER_MISSING) is None
    return increase(at_s, package.column("energy_j"), start_s, end_s) if covers else None


def _nothing(reason: Reason) -> BoardEnergy:
    return BoardEnergy(Reading(reason=reason), Reading(reason=reason), frozenset({reason}))


def _sampled(at_s: Series, power_w: Series, start_s: float, end_s: float, instrument: Instrument) -> Reading:
    """Integral of the power readings that are known."""
    known = np.isfinite(power_w)
    reason = coverage(at_s[known], start_s, end_s, Reason.POWER_MISSING)
    if reason is not None:
        return Reading(reason=reason)
    known_s, known_w = at_s[known], power_w[known]
    near = touching(known_s, start_s, end_s)
    age_s = max(instrument.power_period_s or 0.0, longest_hold_s(known_s[near], known_w[near]))
    sd_j = integral_sd(known_s, known_w, start_s, end_s, age_s)
    return Reading(integral(known_s, known_w, start_s, end_s), sd_j)


def _doubts_about_power(
    readings: _Readings, start_s: float, end_s: float, counter: Reading, sampled: Reading, instrument: Instrument
) -> set[Reason]:
    if _is_frozen(readings, start_s, end_s, instrument, is_counted=counter.energy_j is not None):
        return {Reason.POWER_STUCK}
    doubts = set()
    if instrument.is_trailing_average or (counter.energy_j is not None and _is_trailing(readings)):
        doubts.add(Reason.TRAILING_AVERAGE)
    module = _sampled(readings.at_s, readings.module_w, start_s, end_s, instrument)
    if not _agree(counter, sampled):
        is_module = module.energy_j is not None and _agree(counter, module)
        doubts.add(Reason.MODULE_SCOPE if is_module else Reason.INSTRUMENTS_DISAGREE)
    return doubts


def _agree(counter: Reading, sampled: Reading) -> bool:
    """Whether two instruments differ by no more than 2 %, or no more than the edges leave open (95 %)."""
    if counter.energy_j is None or sampled.energy_j is None:
        return True
    allowed_j = max(MAX_RELATIVE_DIFFERENCE * counter.energy_j, HALF_WIDTH_SDS * math.hypot(counter.sd_j, sampled.sd_j))
    return abs(sampled.energy_j - counter.energy_j) <= allowed_j


def _is_trailing(readings: _Readings) -> bool:
    """Whether power follows the counter's growth late; all readings count, those outside the window too."""
    known = np.isfinite(readings.power_w) & np.isfinite(readings.total_j)
    at_s, total_j, power_w = readings.at_s[known], readings.total_j[known], readings.power_w[known]
    if not len(at_s) or np.any(np.diff(total_j) < 0):
        return False
    late_s, sd_s = delay_s(at_s, total_j, power_w)
    return late_s - SURE * sd_s > TRAILING_S


def _is_frozen(readings: _Readings, start_s: float, end_s: float, instrument: Instrument, *, is_counted: bool) -> bool:
    """Whether the power reading stood still in the window while the board went on otherwise.

    is_counted: whether the counter can be trusted to say so.
    """
    known = np.isfinite(readings.power_w)
    at_s, power_w, total_j = readings.at_s[known], readings.power_w[known], readings.total_j[known]
    moves = bool(np.ptp(power_w) > 0)
    near = touching(at_s, start_s, end_s)
    at_s, power_w, total_j = at_s[near], power_w[near], total_j[near]
    changes = np.flatnonzero(np.diff(power_w) != 0) + 1
    bounds = np.concatenate(([0], changes, [len(at_s)]))
    held_s = at_s[bounds[1:] - 1] - at_s[bounds[:-1]]
    for place in np.flatnonzero(held_s >= FROZEN_S):
        first, last = bounds[place], bounds[place + 1]
        stretch = slice(first, last)
        if is_counted and np.all(np.isfinite(total_j[stretch])):
            if _differs(at_s[stretch], total_j[stretch], power_w[first], instrument, moves=moves):
                return True
        elif instrument.power_period_s and held_s[place] > FROZEN_PERIODS * instrument.power_period_s:
            return True
    return False


def _differs(at_s: Series, total_j: Series, power_w: float, instrument: Instrument, *, moves: bool) -> bool:
    """Whether a reading that stood still did so against the counter.

    moves: whether it is another one at other times. One that never moves and differs from a counter that does not move
    either is not frozen: its scale is wrong.
    """
    length_s = at_s[-1] - at_s[0]
    tick_s = instrument.counter.period_s if instrument.counter else longest_hold_s(at_s, total_j)
    middle = len(at_s) // 2
    halves = (slice(None), slice(0, middle + 1), slice(middle, None))
    whole_w, first_w, second_w = ((total_j[h][-1] - total_j[h][0]) / (at_s[h][-1] - at_s[h][0]) for h in halves)
    allowed = MAX_RELATIVE_DIFFERENCE + 2 * tick_s / length_s
    counter_moves = abs(first_w - second_w) > 2 * allowed * whole_w
    return bool(abs(whole_w / power_w - 1) > allowed and (moves or counter_moves))
