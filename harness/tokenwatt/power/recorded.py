"""Energy of a window from what a recording holds, though a meter may have failed before the recording was over."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwatt.power.instrument import Instruments
from tokenwatt.power.integrate import NOTHING_LEARNT, Energy, integrate
from tokenwatt.record import EnergyStatus, PowerSample, Reason


def recorded_energy(
    samples: Sequence[PowerSample],
    start_s: float,
    end_s: float,
    instruments: Instruments = NOTHING_LEARNT,
    cap_w: float | None = None,
    *,
    failure: str | None = None,
) -> Energy:
    """`integrate`, unless a meter failed before the window was over: then there are no joules, `meter_error` says why.

    Args:
        samples: readings of all sources in the order in which they were taken, up to the failure if there was one.
        start_s: start of the window.
        end_s: end of the window.
        instruments: what was learnt of each board.
        cap_w: power limit that was set on purpose on each board.
        failure: what a meter said when it failed; one that did so later leaves the window alone.

    Raises:
        ValueError: the window is empty.
    """
    if failure is not None and (not samples or samples[-1].at_s < end_s):
        return Energy(EnergyStatus.INVALID, (Reason.METER_ERROR,))
    return integrate(samples, start_s, end_s, instruments, cap_w)
