"""In what state boards were during a window: limits, clocks, temperatures, throttling, other people's processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.instrument import Instrument, Instruments
from tokenwatt.power.log import PowerReadings, Quantity, SourceReadings
from tokenwatt.power.series import Series
from tokenwatt.power.throttle import SLOWDOWNS
from tokenwatt.record import Reason

LIMIT_STEP_W = 1.0
"""Limits that differ by less are the same: drivers round."""


@dataclass(frozen=True, slots=True)
class State:
    """What a row says of its boards beside joules; None where no reading in the window tells."""

    power_peak_w: float | None = None
    """Highest sum of the boards' sampled powers."""
    power_limit_w: float | None = None
    """Lowest enforced limit, summed over boards."""
    power_limit_default_w: float | None = None
    """Limit that the boards come with, summed."""
    sm_clock_hz: float | None = None
    """Mean over the window and the boards."""
    sm_clock_min_hz: float | None = None
    """Lowest on any board."""
    memory_clock_hz: float | None = None
    """Mean over the window and the boards."""
    memory_clock_min_hz: float | None = None
    """Lowest on any board."""
    temperature_start_c: float | None = None
    """Hottest board at its first reading in the window."""
    temperature_end_c: float | None = None
    """Hottest board at its last reading in the window."""
    temperature_slope_c_per_s: float | None = None
    """Straight line through the readings of the board that warms fastest."""
    other_processes: int | None = None
    """Most seen at a time, summed over boards."""
    throttle_reasons: tuple[str, ...] = ()
    """Every NVML reason seen, sorted."""


def state_of(boards: PowerReadings, instruments: Instruments) -> State:
    """State of boards from their readings in a window."""
    readings = list(boards.values())
    slopes = [slope for board in readings if (slope := _slope(board)) is not None]
    temperatures_c = [known for board in readings if len(known := board.known("temperature_c"))]
    reasons = {reason for board in readings for reason in board.throttle_reasons()}
    others = [most for board in readings if (most := _of(board, "other_processes", np.max)) is not None]
    return State(
        power_peak_w=_peak_w(readings),
        power_limit_w=total([_of(board, "power_limit_w", np.min) for board in readings]),
        power_limit_default_w=total([_instrument(instruments, source).power_limit_default_w for source in boards]),
        sm_clock_hz=_mean([_of(board, "sm_clock_hz", np.mean) for board in readings]),
        sm_clock_min_hz=_lowest([_of(board, "sm_clock_hz", np.min) for board in readings]),
        memory_clock_hz=_mean([_of(board, "memory_clock_hz", np.mean) for board in readings]),
        memory_clock_min_hz=_lowest([_of(board, "memory_clock_hz", np.min) for board in readings]),
        temperature_start_c=max((float(known[0]) for known in temperatures_c), default=None),
        temperature_end_c=max((float(known[-1]) for known in temperatures_c), default=None),
        temperature_slope_c_per_s=max(slopes, default=None),
        other_processes=int(sum(others)) if others else None,
        throttle_reasons=tuple(sorted(reasons)),
    )


def doubts_about_state(boards: PowerReadings, instruments: Instruments, cap_w: float | None) -> set[Reason]:
    """What in the state of boards makes their energy one that others would not see.

    cap_w: the limit that was set on purpose on each board; a board that has it is not below its default.
    """
    found = set()
    for source, board in boards.items():
        instrument = _instrument(instruments, source)
        least_w, most_w = (_of(board, "power_limit_w", summary) for summary in (np.min, np.max))
        expected_w = instrument.power_limit_default_w if cap_w is None else cap_w
        if least_w is not None and expected_w is not None and least_w < expected_w - LIMIT_STEP_W:
            found.add(Reason.CAP_BELOW_DEFAULT)
        if least_w is not None and most_w is not None and most_w - least_w > LIMIT_STEP_W:
            found.add(Reason.CAP_CHANGED)
        if instrument.is_mig:
            found.add(Reason.MIG)
        if _of(board, "other_processes", np.max):
            found.add(Reason.OTHER_PROCESS)
        if _of(board, "unmetered_gpus", np.max):
            found.add(Reason.WRONG_GPU_COUNT)
        if SLOWDOWNS & board.throttle_reasons():
            found.add(Reason.THROTTLED)
    return found


def total(parts: Sequence[float | None]) -> float | None:
    """Sum; None if there is nothing to add up or a part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _instrument(instruments: Instruments, source: str) -> Instrument:
    return instruments.get(source, Instrument())


def _of(board: SourceReadings, quantity: Quantity, summary: Callable[[Series], float]) -> float | None:
    """The least, most or mean of a quantity; None where no reading has it."""
    known = board.known(quantity)
    return float(summary(known)) if len(known) else None


def _peak_w(boards: Sequence[SourceReadings]) -> float | None:
    """Boards are read one after the other within milliseconds, so that their n-th readings belong together."""
    readings_w = [board.known("power_w") for board in boards]
    together = min(map(len, readings_w), default=0)
    return float(np.max(np.sum([each_w[:together] for each_w in readings_w], axis=0))) if together else None


def _lowest(parts: Sequence[float | None]) -> float | None:
    return min((part for part in parts if part is not None), default=None)


def _mean(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if known else None


def _slope(board: SourceReadings) -> float | None:
    """Degrees per second of one board."""
    celsius = board.column("temperature_c")
    known = np.isfinite(celsius)
    if np.count_nonzero(known) < 2:
        return None
    at_s = board.column("at_s")[known]
    return float(np.polyfit(at_s - at_s[0], celsius[known], 1)[0])
