"""Energy of a window from power readings, by two instruments that check each other, with a verdict and its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from tokenwatt.power.board import BoardEnergy, board_energy, package_energy_j, relative_difference
from tokenwatt.power.counting import HALF_WIDTH_SDS
from tokenwatt.power.instrument import Instrument, Instruments
from tokenwatt.power.log import PowerReadings, SourceReadings
from tokenwatt.power.meter import RAPL_PREFIX
from tokenwatt.power.state import State, doubts_about_state, state_of, total
from tokenwatt.record import EnergyStatus, Reason

MIN_WINDOW_S = 2.0
"""Power readings may be averages over a second, and a board that was idle a second ago still shows it."""
MAX_VALID_SHARE = 0.01
"""An energy that is less certain than this (95 %) is doubted: results are to be repeatable within 2 %."""
MAX_HALF_WIDTH_SHARE = 0.05
"""One that is less certain than this is no figure."""
_INVALID = frozenset({Reason.METER_ERROR, Reason.CLOCK_STEPPED_BACK, Reason.WRONG_GPU_COUNT})
"""With these there are no joules, whatever an instrument says."""
_ABSENT = frozenset({Reason.COUNTER_MISSING, Reason.POWER_MISSING})
"""An instrument that is not there; every other reason for its silence is a fault."""
NOTHING_LEARNT: Instruments = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one window. Joules are None unless the status is `valid` or `suspect` (CPU: unless covered)."""

    status: EnergyStatus
    """`no_meter` also where one of several boards has neither a counter nor a power reading."""
    reasons: tuple[Reason, ...] = ()
    """Why it is not `valid`, in the order of `Reason`; empty for a window without any board."""
    gpu_energy_j: float | None = None
    """Boards, summed: each one's counter, or its integral where the counter is missing or not to be trusted."""
    half_width_j: float | None = None
    """Half of the 95 % interval around it, from what the edges leave open."""
    by_gpu_j: tuple[float, ...] = ()
    """Each board's part, in the order of the instruments, else of the readings."""
    counter_j: float | None = None
    """Boards, summed, by counter; None unless all have one."""
    sampled_j: float | None = None
    """Boards, summed, by integrated instantaneous power; None unless all have it."""
    relative_difference: float | None = None
    """(sampled - counter) / counter of those sums; the verdict looks at each board."""
    cpu_energy_j: float | None = None
    """CPU packages, summed; None where one of them does not cover the window."""
    counter_period_s: float | None = None
    """The slowest board's."""
    power_period_s: float | None = None
    """The slowest board's."""
    sampling_period_s: float | None = None
    """Median spacing of a board's readings."""
    state: State = field(default_factory=State)

    def doubted(self, doubt: Reason) -> Energy:
        """The same with one more reason: what was `valid` is `suspect`."""
        status = EnergyStatus.SUSPECT if self.status is EnergyStatus.VALID else self.status
        return replace(self, status=status, reasons=_in_order({*self.reasons, doubt}))


def integrate(
    readings: PowerReadings,
    start_s: float,
    end_s: float,
    instruments: Instruments = NOTHING_LEARNT,
    cap_w: float | None = None,
) -> Energy:
    """Energy that each source used from `start_s` to `end_s`, seconds on the readings' clock.

    Both edges need a reading on either side; a few seconds of readings beyond them are better, because the counter's
    ticks are found from them. A board's two instruments must agree within 2 %.

    Args:
        readings: of each source.
        start_s: start of the window.
        end_s: end of the window.
        instruments: what was learnt of each board (`Meters.learn`). A board that is named and has no readings makes the
            window invalid.
        cap_w: power limit that was set on purpose on each board.

    Raises:
        ValueError: the window is empty.
    """
    if not start_s < end_s:
        raise ValueError(f"end_s must be > start_s, got {start_s} to {end_s}")
    boards = _boards(readings)
    packages = [of_source for source, of_source in readings.items() if source not in boards]
    cpu_energy_j = total([package_energy_j(package, start_s, end_s) for package in packages])
    missing = [source for source in instruments if source not in boards]
    if not boards and not missing:
        return Energy(status=EnergyStatus.NO_METER, cpu_energy_j=cpu_energy_j)

    order = [source for source in instruments if source in boards] or list(boards)
    boards = {source: boards[source] for source in [*order, *(set(boards) - set(order))]}
    known = [instruments.get(source, Instrument()) for source in boards]
    energies = [
        board_energy(board, start_s, end_s, instrument)
        for board, instrument in zip(boards.values(), known, strict=True)
    ]
    inside = {source: board.between(start_s, end_s) for source, board in boards.items()}
    found = {reason for energy in energies for reason in energy.reasons}
    found |= doubts_about_state(inside, instruments, cap_w)
    if missing:
        found.add(Reason.WRONG_GPU_COUNT)
    if end_s - start_s < MIN_WINDOW_S or _is_uncertain(energies, MAX_VALID_SHARE):
        found.add(Reason.WINDOW_TOO_SHORT)
    status = _status(energies, found)
    verdict = Energy(
        status=status,
        reasons=_in_order(found),
        cpu_energy_j=cpu_energy_j,
        counter_period_s=max((i.counter.period_s for i in known if i.counter is not None), default=None),
        power_period_s=max((i.power_period_s for i in known if i.power_period_s is not None), default=None),
        sampling_period_s=_spacing_s(boards.values()),
        state=state_of(inside, instruments),
    )
    return _with_joules(verdict, energies) if status in (EnergyStatus.VALID, EnergyStatus.SUSPECT) else verdict


def _with_joules(verdict: Energy, energies: Sequence[BoardEnergy]) -> Energy:
    parts_j = [energy.best.energy_j for energy in energies]
    counter_j = total([energy.counter.energy_j for energy in energies])
    sampled_j = total([energy.sampled.energy_j for energy in energies])
    return replace(
        verdict,
        gpu_energy_j=total(parts_j),
        half_width_j=HALF_WIDTH_SDS * _sd_j(energies),
        by_gpu_j=tuple(part_j for part_j in parts_j if part_j is not None),
        counter_j=counter_j,
        sampled_j=sampled_j,
        relative_difference=relative_difference(counter_j, sampled_j),
    )


def mean_power_w(
    readings: PowerReadings, start_s: float, end_s: float, instruments: Instruments = NOTHING_LEARNT
) -> float | None:
    """Mean power of all boards over the window, W (idle power, say); None where its energy cannot be trusted.

    Raises:
        ValueError: the window is empty.
    """
    energy_j = integrate(readings, start_s, end_s, instruments).gpu_energy_j
    return None if energy_j is None else energy_j / (end_s - start_s)


def binned_power_w(readings: PowerReadings, start_s: float, end_s: float, bins: int) -> list[float] | None:
    """Mean sampled board power in `bins` equal parts of (start, end], summed over boards, W.

    None without boards, or where a board has no power reading in some part.
    """
    boards, total_w = _boards(readings), np.zeros(bins)
    for board in boards.values():
        at_s, power_w = board.column("at_s"), board.column("power_w")
        chosen = np.isfinite(power_w) & (start_s < at_s) & (at_s <= end_s)
        place = ((at_s[chosen] - start_s) / ((end_s - start_s) / bins)).astype(np.intp).clip(max=bins - 1)
        counts = np.bincount(place, minlength=bins)
        if not counts.all():
            return None
        total_w += np.bincount(place, power_w[chosen], minlength=bins) / counts
    return total_w.tolist() if boards else None


def _boards(readings: PowerReadings) -> dict[str, SourceReadings]:
    return {source: board for source, board in readings.items() if not source.startswith(RAPL_PREFIX)}


def _sd_j(energies: Sequence[BoardEnergy]) -> float:
    return math.hypot(*(energy.best.sd_j for energy in energies))


def _is_uncertain(energies: Sequence[BoardEnergy], share: float) -> bool:
    """Whether half of the 95 % interval of the sum is wider than that share of it."""
    energy_j = total([energy.best.energy_j for energy in energies])
    return energy_j is not None and HALF_WIDTH_SDS * _sd_j(energies) > share * energy_j


def _status(energies: Sequence[BoardEnergy], found: set[Reason]) -> EnergyStatus:
    silent = [energy for energy in energies if energy.best.energy_j is None]
    if found & _INVALID or _is_uncertain(energies, MAX_HALF_WIDTH_SHARE):
        return EnergyStatus.INVALID
    if not silent:
        return EnergyStatus.SUSPECT if found else EnergyStatus.VALID
    is_absent = all({energy.counter.reason, energy.sampled.reason} <= _ABSENT for energy in silent)
    return EnergyStatus.NO_METER if is_absent else EnergyStatus.INVALID


def _spacing_s(boards: Iterable[SourceReadings]) -> float | None:
    spacings_s = [float(np.median(np.diff(board.column("at_s")))) for board in boards if len(board) > 1]
    return max(spacings_s, default=None)


def _in_order(reasons: set[Reason]) -> tuple[Reason, ...]:
    return tuple(reason for reason in Reason if reason in reasons)
