"""Energy of a window from what a recording holds, though a meter may have failed before the recording was over."""

from __future__ import annotations

import math

from tokenwatt.power.instrument import Instruments
from tokenwatt.power.integrate import NOTHING_LEARNT, Energy, integrate
from tokenwatt.power.log import PowerReadings
from tokenwatt.record import EnergyStatus, Reason


def recorded_energy(
    readings: PowerReadings,
    start_s: float,
    end_s: float,
    instruments: Instruments = NOTHING_LEARNT,
    cap_w: float | None = None,
    *,
    failure: str | None = None,
) -> Energy:
    """`integrate`, unless a meter failed before the window was over: then there are no joules, `meter_error` says why.

    Args:
        readings: of all sources, up to the failure if there was one.
        start_s: start of the window.
        end_s: end of the window.
        instruments: what was learnt of each board.
        cap_w: power limit that was set on purpose on each board.
        failure: what a meter said when it failed; one that did so later leaves the window alone.

    Raises:
        ValueError: the window is empty.
    """
    latest_s = max((float(each.column("at_s")[-1]) for each in readings.values()), default=-math.inf)
    if failure is not None and latest_s < end_s:
        return Energy(EnergyStatus.INVALID, (Reason.METER_ERROR,))
    return integrate(readings, start_s, end_s, instruments, cap_w)
