"""Recordings on a manual clock: a minute of readings in milliseconds of real time, exactly repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenwatt.power.log import PowerLog
from tokenwatt.power.meter import Meter
from tokenwatt.power.sampler import SAMPLING_PERIOD_S, due_times
from tokenwatt.power.virtual.library import Machine

LATE_S = 3e-4
"""Mean lateness of a reading: a thread is woken so late on a quiet machine."""
STALL_S, STALL_SHARE = 0.02, 0.005
"""Seldom, something else runs for a scheduler's turn or two."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """What can befall the recording computer; moments on the machine's clock."""

    silence_s: tuple[float, float] | None = None
    """From when to when it reads nothing."""
    step_back_s: tuple[float, float] | None = None
    """When its own clock is set back, and by how much."""


UNDISTURBED = Mishap()
"""Nothing."""


def record(
    machine: Machine,
    meters: Sequence[Meter],
    seconds: float,
    period_s: float = SAMPLING_PERIOD_S,
    seed: int = 0,
    mishap: Mishap = UNDISTURBED,
    log: PowerLog | None = None,
) -> PowerLog:
    """Read meters as a `Sampler` does, from now on the machine's manual clock, without waiting.

    A reading comes late by chance; one that readings overran is left out.

    log: where readings are put, and found after a failure too, as those of a `Sampler` are; None makes a new one.

    Raises:
        MeterError: a reading failed.
    """
    random = np.random.default_rng(seed)
    begin_s = machine.clock()
    log = PowerLog() if log is None else log

    def clock() -> float:
        now_s = machine.clock()
        step_s, by_s = mishap.step_back_s or (np.inf, 0.0)
        return now_s - by_s if now_s >= step_s else now_s

    due = due_times(begin_s, period_s)
    while (due_s := next(due)) <= begin_s + seconds:
        late_s = random.exponential(LATE_S) + (STALL_S if random.random() < STALL_SHARE else 0.0)
        silent_from_s, silent_to_s = mishap.silence_s or (np.inf, np.inf)
        if machine.clock() > due_s or silent_from_s <= due_s < silent_to_s:
            continue
        machine.set_time(max(machine.clock(), due_s + late_s))
        for meter in meters:
            log.extend(meter.read(clock))
    return log
