"""Energy of a window from power samples, by two instruments that check each other, with a verdict and its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tokenwatt.power.board import BoardEnergy, board_energy, package_energy_j, relative_difference
from tokenwatt.power.meter import RAPL_PREFIX
from tokenwatt.power.throttle import SLOWDOWNS
from tokenwatt.record import EnergyStatus, PowerSample, Reason

MIN_WINDOW_S = 2.0
"""Edges are uncertain by up to 10 ms each, 1 % of 2 s; and power readings may be averages over a second."""
_FATAL = frozenset({Reason.EDGE_NOT_BRACKETED, Reason.SAMPLE_GAP})


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

    def doubted(self, doubt: Reason) -> Energy:
        """The same with one more reason: what was `valid` is `suspect`."""
        status = EnergyStatus.SUSPECT if self.status is EnergyStatus.VALID else self.status
        return replace(
            self, status=status, reasons=tuple(reason for reason in Reason if reason in {*self.reasons, doubt})
        )


def integrate(samples: Iterable[PowerSample], start_s: float, end_s: float) -> Energy:
    """Energy that each source used from `start_s` to `end_s`, seconds on the samples' clock.

    Both edges need a sample on either side. A second of samples beyond them (`EDGE_READINGS`) is better: it averages
    the counter's lag. A board's two instruments must agree within 5 %.

    Raises:
        ValueError: the window is empty.
    """
    if not start_s < end_s:
        raise ValueError(f"end_s must be > start_s, got {start_s} to {end_s}")
    sources = _by_source(samples)
    boards = [series for source, series in sources.items() if not source.startswith(RAPL_PREFIX)]
    packages = [series for source, series in sources.items() if source.startswith(RAPL_PREFIX)]
    cpu_energy_j = _total([package_energy_j(series, start_s, end_s) for series in packages])
    if not boards:
        return Energy(status=EnergyStatus.NO_METER, cpu_energy_j=cpu_energy_j)

    energies = [board_energy(series, start_s, end_s) for series in boards]
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
    temperatures_c = [known for series in inside if (known := _known(series, lambda s: s.temperature_c))]
    return Energy(
        status=status,
        reasons=tuple(reason for reason in Reason if reason in found),
        gpu_energy_j=_total([energy.energy_j for energy in trusted]),
        counter_j=counter_j,
        sampled_j=sampled_j,
        relative_difference=relative_difference(counter_j, sampled_j),
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


def binned_power_w(samples: Iterable[PowerSample], start_s: float, end_s: float, bins: int) -> list[float] | None:
    """Mean sampled board power in `bins` equal parts of (start, end], summed over boards, W.

    None without boards, or where a board has no power reading in some part.
    """
    width_s = (end_s - start_s) / bins
    total_w = [0.0] * bins
    boards = {source: series for source, series in _by_source(samples).items() if not source.startswith(RAPL_PREFIX)}
    for series in boards.values():
        parts: list[list[float]] = [[] for _ in range(bins)]
        for sample in series:
            if sample.power_w is not None and start_s < sample.at_s <= end_s:
                parts[min(int((sample.at_s - start_s) / width_s), bins - 1)].append(sample.power_w)
        if not all(parts):
            return None
        total_w = [sum_w + sum(part) / len(part) for sum_w, part in zip(total_w, parts, strict=True)]
    return total_w if boards else None


def _by_source(samples: Iterable[PowerSample]) -> dict[str, list[PowerSample]]:
    sources: dict[str, list[PowerSample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.at_s):
        sources.setdefault(sample.source, []).append(sample)
    return sources


def _status(energies: list[BoardEnergy], found: set[Reason]) -> EnergyStatus:
    if found & _FATAL:
        return EnergyStatus.INVALID
    if any(energy.energy_j is None for energy in energies):
        return EnergyStatus.NO_METER
    return EnergyStatus.SUSPECT if found else EnergyStatus.VALID


def _known(series: list[PowerSample], quantity: Callable[[PowerSample], float | None]) -> list[float]:
    return [value for sample in series if (value := quantity(sample)) is not None]


def _total(parts: list[float | None]) -> float | None:
    """Sum; None if there is nothing to add up or a part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _mean(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) / len(known) if known else None
