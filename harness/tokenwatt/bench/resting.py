"""Power of boards that do nothing: before an engine is loaded, with it, and after it is closed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tokenwatt import power
from tokenwatt.bench.observer import Observer
from tokenwatt.clock import Clock

SETTLE_S = 3.0
"""Wait after a board had work, or an engine was closed: readings of power may trail by a second, and giving memory back
takes a moment."""


@dataclass(frozen=True, slots=True)
class Resting:
    """Mean board power of a stretch of rest."""

    power_w: float
    half_width_w: float | None
    """Half of its 95 % interval, from what the edges of the stretch leave open; None where it cannot be said."""

    @classmethod
    def of(cls, energy: power.Energy, length_s: float) -> Resting | None:
        """From the energy of the stretch; None where that cannot be trusted."""
        if energy.gpu_energy_j is None:
            return None
        half_j = energy.half_width_j
        return cls(energy.gpu_energy_j / length_s, None if half_j is None else half_j / length_s)


def resting_power(
    meters: power.Meters,
    instruments: power.Instruments,
    clock: Clock,
    length_s: float,
    observer: Observer,
    label: str,
    settle_s: float = 0.0,
) -> Resting | None:
    """Mean board power over `length_s`, once `settle_s` have passed.

    None without a meter of a board, or where its energy cannot be trusted.
    """
    if not meters.scope or not length_s:
        return None
    observer.begin(label, settle_s + length_s)
    time.sleep(settle_s)
    with power.Sampler(meters.meters, clock) as sampler:
        begin_s = clock()
        while (elapsed_s := clock() - begin_s) < length_s:
            time.sleep(min(power.SAMPLING_PERIOD_S, length_s - elapsed_s))
            observer.advance(elapsed_s)
    observer.end(None)
    return Resting.of(power.integrate(sampler.log.readings(), begin_s, begin_s + length_s, instruments), length_s)
