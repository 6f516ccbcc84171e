"""In what state boards were during a window: limits, clocks, temperatures, throttling, other people's processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.instrument import Instrument, Instruments
from tokenwatt.power.throttle import SLOWDOWNS
from tokenwatt.record import PowerSample, Reason

LIMIT_STEP_W = 1.0
"""Limits that differ by less are the same: drivers round."""


@dataclass(frozen=True, slots=True)
class State:
    """What a row says of its boards beside joules; None where no reading in the window tells."""

    power_peak_w: float | None = None
    """Highest sampled power, summed over boards."""
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


def state_of(boards: Mapping[str, Sequence[PowerSample]], instruments: Instruments) -> State:
    """State of boards from their samples in a window."""
    samples = list(boards.values())
    slopes = [slope for board in samples if (slope := _slope(board)) is not None]
    temperatures_c = [known for board in samples if (known := known_values(board, _temperature))]
    reasons = {reason for board in samples for sample in board for reason in sample.throttle_reasons}
    others = [known for board in samples if (known := known_values(board, lambda s: s.other_processes))]
    return State(
        power_peak_w=total([_largest(board, lambda s: s.power_w) for board in samples]),
        power_limit_w=total([_least(board, _limit) for board in samples]),
        power_limit_default_w=total([_instrument(instruments, source).power_limit_default_w for source in boards]),
        sm_clock_hz=_mean([_mean(known_values(board, lambda s: s.sm_clock_hz)) for board in samples]),
        sm_clock_min_hz=_lowest([_least(board, lambda s: s.sm_clock_hz) for board in samples]),
        memory_clock_hz=_mean([_mean(known_values(board, lambda s: s.memory_clock_hz)) for board in samples]),
        memory_clock_min_hz=_lowest([_least(board, lambda s: s.memory_clock_hz) for board in samples]),
        temperature_start_c=max((known[0] for known in temperatures_c), default=None),
        temperature_end_c=max((known[-1] for known in temperatures_c), default=None),
        temperature_slope_c_per_s=max(slopes, default=None),
        other_processes=sum(int(max(known)) for known in others) if others else None,
        throttle_reasons=tuple(sorted(reasons)),
    )


def doubts_about_state(
    boards: Mapping[str, Sequence[PowerSample]], instruments: Instruments, cap_w: float | None
) -> set[Reason]:
    """What in the state of boards makes their energy one that others would not see.

    cap_w: the limit that was set on purpose on each board; a board that has it is not below its default.
    """
    found = set()
    for source, samples in boards.items():
        instrument = _instrument(instruments, source)
        limits_w = known_values(samples, _limit)
        expected_w = instrument.power_limit_default_w if cap_w is None else cap_w
        if limits_w and expected_w is not None and min(limits_w) < expected_w - LIMIT_STEP_W:
            found.add(Reason.CAP_BELOW_DEFAULT)
        if limits_w and max(limits_w) - min(limits_w) > LIMIT_STEP_W:
            found.add(Reason.CAP_CHANGED)
        if instrument.is_mig:
            found.add(Reason.MIG)
        if any(sample.other_processes for sample in samples):
            found.add(Reason.OTHER_PROCESS)
        if any(sample.unmetered_gpus for sample in samples):
            found.add(Reason.WRONG_GPU_COUNT)
        if any(SLOWDOWNS.intersection(sample.throttle_reasons) for sample in samples):
            found.add(Reason.THROTTLED)
    return found


def known_values(samples: Sequence[PowerSample], quantity: Callable[[PowerSample], float | None]) -> list[float]:
    """The quantity of each sample that has it."""
    return [value for sample in samples if (value := quantity(sample)) is not None]


def total(parts: Sequence[float | None]) -> float | None:
    """Sum; None if there is nothing to add up or a part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _instrument(instruments: Instruments, source: str) -> Instrument:
    return instruments.get(source, Instrument())


def _limit(sample: PowerSample) -> float | None:
    return sample.power_limit_w


def _temperature(sample: PowerSample) -> float | None:
    return sample.temperature_c


def _least(samples: Sequence[PowerSample], quantity: Callable[[PowerSample], float | None]) -> float | None:
    return min(known_values(samples, quantity), default=None)


def _largest(samples: Sequence[PowerSample], quantity: Callable[[PowerSample], float | None]) -> float | None:
    return max(known_values(samples, quantity), default=None)


def _lowest(parts: Sequence[float | None]) -> float | None:
    return min((part for part in parts if part is not None), default=None)


def _mean(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if known else None


def _slope(samples: Sequence[PowerSample]) -> float | None:
    """Degrees per second of one board."""
    points = [(sample.at_s, sample.temperature_c) for sample in samples if sample.temperature_c is not None]
    if len(points) < 2:
        return None
    at_s, celsius = np.array(points).T
    return float(np.polyfit(at_s - at_s[0], celsius, 1)[0])
