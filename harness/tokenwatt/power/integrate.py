"""Energy of a window from power samples, by two instruments that check each other, with a verdict and its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.meter import RAPL_PREFIX
from tokenwatt.power.series import Series, has_gap, increase, integral, is_bracketed, ticking_increase
from tokenwatt.power.throttle import SLOWDOWNS
from tokenwatt.record import EnergyStatus, PowerSample, Reason

MIN_WINDOW_S = 2.0
"""In a shorter window an edge error of one sample spacing (50 ms) is over 2 %."""
MAX_RELATIVE_DIFFERENCE = 0.05
"""The only accuracy that NVML documents for a power reading (Fermi, Kepler). Under load the two agree within 1 %."""
_FATAL = frozenset({Reason.EDGE_NOT_BRACKETED, Reason.SAMPLE_GAP})

_Quantity = Callable[[PowerSample], float | None]
_Instrument = Callable[[Series, Series, float, float], float]


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one window. Joules are None unless the status is `valid` or `suspect` (CPU: unless covered)."""

    status: EnergyStatus
    """`no_meter` also where one of several boards has neither a counter nor a power reading."""
    reasons: tuple[Reason, ...] = ()
    """Why it is not `valid`, in the order of `Reason`; empty for a window without any board."""
    gpu_energy_j: float | None = None
    """Boards, summed: each one's counter, or its integral where it has none."""
    counter_j: float | None = None
    """Boards, summed, by counter; None unless all have one."""
    sampled_j: float | None = None
    """Boards, summed, by integrated instantaneous power; None unless all have it."""
    relative_difference: float | None = None
    """(sampled - counter) / counter of those sums; the verdict looks at each board."""
    cpu_energy_j: float | None = None
    """CPU packages, summed; None where one of them does not cover the window."""
    power_limit_w: float | None = None
    """Lowest limit in the window, summed over boards."""
    sm_clock_hz: float | None = None
    """Mean over the window and the boards."""
    temperature_start_c: float | None = None
    """Hottest board at its first sample in the window."""
    temperature_end_c: float | None = None
    """Hottest board at its last sample in the window."""
    throttle_reasons: tuple[str, ...] = ()
    """Every NVML reason seen in the window, sorted."""


@dataclass(frozen=True, slots=True)
class _BoardEnergy:
    reasons: frozenset[Reason]
    counter_j: float | None = None
    sampled_j: float | None = None

    @property
    def best_j(self) -> float | None:
        return self.sampled_j if self.counter_j is None else self.counter_j


def integrate(samples: Iterable[PowerSample], start_s: float, end_s: float) -> Energy:
    """Energy that each source used from `start_s` to `end_s`, seconds on the samples' clock.

    Give it samples from beyond the window as well, half a second or more on either side: they place the counter's
    ticks. A board's instruments must agree within 5 %; both edges need a sample on either side.

    Raises:
        ValueError: the window is empty.
    """
    if not start_s < end_s:
        raise ValueError(f"end_s must be > start_s, got {start_s} to {end_s}")
    sources = _by_source(samples)
    boards = [series for source, series in sources.items() if not source.startswith(RAPL_PREFIX)]
    packages = [series for source, series in sources.items() if source.startswith(RAPL_PREFIX)]
    cpu_energy_j = _total([_package_energy_j(series, start_s, end_s) for series in packages])
    if not boards:
        return Energy(status=EnergyStatus.NO_METER, cpu_energy_j=cpu_energy_j)

    energies = [_board_energy(series, start_s, end_s) for series in boards]
    inside = [[sample for sample in series if start_s <= sample.at_s <= end_s] for series in boards]
    throttle_reasons = {reason for series in inside for sample in series for reason in sample.throttle_reasons}
    found = {reason for energy in energies for reason in energy.reasons}
    if throttle_reasons & SLOWDOWNS:
        found.add(Reason.THROTTLED)
    if end_s - start_s < MIN_WINDOW_S:
        found.add(Reason.WINDOW_TOO_SHORT)
    status = _status(energies, found)
    trusted = energies if status in (EnergyStatus.VALID, EnergyStatus.SUSPECT) else []
    counter_j = _total([energy.counter_j for energy in trusted])
    sampled_j = _total([energy.sampled_j for energy in trusted])
    temperatures_c = [known for series in inside if (known := _known(series, lambda sample: sample.temperature_c))]
    return Energy(
        status=status,
        reasons=tuple(reason for reason in Reason if reason in found),
        gpu_energy_j=_total([energy.best_j for energy in trusted]),
        counter_j=counter_j,
        sampled_j=sampled_j,
        relative_difference=_relative_difference(counter_j, sampled_j),
        cpu_energy_j=cpu_energy_j,
        power_limit_w=_total([min(_known(series, lambda s: s.power_limit_w), default=None) for series in inside]),
        sm_clock_hz=_mean([_mean(_known(series, lambda s: s.sm_clock_hz)) for series in inside]),
        temperature_start_c=max((known[0] for known in temperatures_c), default=None),
        temperature_end_c=max((known[-1] for known in temperatures_c), default=None),
        throttle_reasons=tuple(sorted(throttle_reasons)),
    )


def mean_power_w(samples: Iterable[PowerSample], start_s: float, end_s: float) -> float | None:
    """Mean power of all boards over the window, W (idle power, say); None where its energy cannot be trusted.

    Raises:
        ValueError: the window is empty.
    """
    energy_j = integrate(samples, start_s, end_s).gpu_energy_j
    return None if energy_j is None else energy_j / (end_s - start_s)


def _by_source(samples: Iterable[PowerSample]) -> dict[str, list[PowerSample]]:
    sources: dict[str, list[PowerSample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.at_s):
        sources.setdefault(sample.source, []).append(sample)
    return sources


def _board_energy(series: list[PowerSample], start_s: float, end_s: float) -> _BoardEnergy:
    at_s = np.array([sample.at_s for sample in series])
    if not is_bracketed(at_s, start_s, end_s):
        return _BoardEnergy(frozenset({Reason.EDGE_NOT_BRACKETED}))
    if has_gap(at_s, start_s, end_s):
        return _BoardEnergy(frozenset({Reason.SAMPLE_GAP}))
    counter_j = ticking_increase(*_column(series, lambda sample: sample.energy_j), start_s, end_s)
    sampled_j = _covered(integral, *_column(series, lambda sample: sample.power_w), start_s, end_s)
    reasons = set()
    if counter_j is None:
        reasons.add(Reason.COUNTER_MISSING)
    if sampled_j is None:
        reasons.add(Reason.POWER_MISSING)
    difference = _relative_difference(counter_j, sampled_j)
    if difference is not None and abs(difference) > MAX_RELATIVE_DIFFERENCE:
        reasons.add(Reason.INSTRUMENTS_DISAGREE)
    return _BoardEnergy(frozenset(reasons), counter_j, sampled_j)


def _status(energies: list[_BoardEnergy], found: set[Reason]) -> EnergyStatus:
    if found & _FATAL:
        return EnergyStatus.INVALID
    if any(energy.best_j is None for energy in energies):
        return EnergyStatus.NO_METER
    return EnergyStatus.SUSPECT if found else EnergyStatus.VALID


def _package_energy_j(series: list[PowerSample], start_s: float, end_s: float) -> float | None:
    return _covered(increase, *_column(series, lambda sample: sample.energy_j), start_s, end_s)


def _covered(instrument: _Instrument, at_s: Series, values: Series, start_s: float, end_s: float) -> float | None:
    if not is_bracketed(at_s, start_s, end_s) or has_gap(at_s, start_s, end_s):
        return None
    return instrument(at_s, values, start_s, end_s)


def _column(series: list[PowerSample], quantity: _Quantity) -> tuple[Series, Series]:
    """Times and values of the samples that carry the quantity."""
    known = [(sample.at_s, value) for sample in series if (value := quantity(sample)) is not None]
    at_s, values = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return at_s, values


def _known(series: list[PowerSample], quantity: _Quantity) -> list[float]:
    return [value for sample in series if (value := quantity(sample)) is not None]


def _total(parts: list[float | None]) -> float | None:
    """Sum; None if there is nothing to add up or a part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _mean(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if known else None


def _relative_difference(counter_j: float | None, sampled_j: float | None) -> float | None:
    if not counter_j or sampled_j is None:
        return None
    return (sampled_j - counter_j) / counter_j
