"""A loop of calls on a GPU with a meter around it: what a call costs in joules, for whoever has a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenwatt import power
from tokenwatt.clock import Clock
from tokenwatt.record import EnergyStatus, Reason

MARGIN_S = 1.0
"""A loop goes on so long on both sides of its window: the counter's ticks at both edges are found from readings around
them, within 0.07 % of the energy of two seconds (median of simulated boards)."""
HOST_BOUND_SHARE = 0.95
"""A host that spends more of the window than this on queueing may have kept the device waiting."""

Integrate = Callable[[power.PowerReadings, float, float], power.Energy]
"""`power.integrate`, told what was learnt of the instruments, and a cap that was set on purpose."""


@dataclass(frozen=True, slots=True)
class MeteredLoop:
    """The window of a loop. Without calls where the meter failed."""

    energy: power.Energy
    start_s: float = 0.0
    end_s: float = 0.0
    calls: int = 0
    failure: str | None = None
    """What the meter said when it failed."""

    @property
    def window_s(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s


def metered_loop(
    function: Callable[[], object],
    call_s: float,
    sampler: power.Sampler,
    clock: Clock,
    integrate: Integrate = power.integrate,
) -> MeteredLoop:
    """Call `function`, which takes about `call_s` of a GPU, over and over, while `sampler` looks on.

    clock: the sampler's. A meter that fails spoils the energy, which is `invalid` then; the loop's own error goes on.
    """
    from tokenwatt_kernels import timing

    try:
        with sampler:
            loop = timing.loop(function, call_s, clock, margin_s=MARGIN_S)
    except power.MeterError as error:
        return MeteredLoop(power.Energy(EnergyStatus.INVALID, (Reason.METER_ERROR,)), failure=str(error))
    energy = integrate(sampler.log.readings(), loop.start_s, loop.end_s)
    if loop.queueing_s > HOST_BOUND_SHARE * (loop.end_s - loop.start_s):
        energy = energy.doubted(Reason.HOST_BOUND)
    return MeteredLoop(energy, loop.start_s, loop.end_s, loop.calls)
