"""A board whose joules follow from a law, and a GPU's loop without a GPU: closure with a truth to be found again."""

from __future__ import annotations

import bisect
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tokenwatt import power
from tokenwatt.engines.protocol import Family, Probe
from tokenwatt.record import EnergyStatus, PowerSample
from tokenwatt_kernels import timing

SOURCE = "GPU-scripted"


@dataclass
class ScriptedBoard:
    """Draws static_w, and for each call of a probe its flop and bytes at its family's J/FLOP and J/byte."""

    static_w: float
    law: Mapping[Family, tuple[float, float]]
    calls_s: list[float] = field(default_factory=list)
    drawn_j: list[float] = field(default_factory=lambda: [0.0])
    """Above static power, by all calls up to each."""
    last: tuple[float, float] = (0.0, 0.0)

    @property
    def sources(self) -> tuple[str, ...]:
        return (SOURCE,)

    def work_j(self, family: Family, flop: float, bytes_: float) -> float:
        """What so much work draws."""
        per_flop, per_byte = self.law[family]
        return flop * per_flop + bytes_ * per_byte

    def drawing(self, probe: Probe, clock: Callable[[], float], call_s: float = 0.0) -> Probe:
        """The probe, whose calls draw energy here, and take at least so long."""

        def prepare() -> Callable[[], None]:
            inner = probe.prepare()

            def call() -> None:
                inner()
                time.sleep(call_s)
                energy_j = self.work_j(probe.family, probe.flop, probe.bytes)
                self.drawn_j.append(self.drawn_j[-1] + energy_j)
                self.calls_s.append(clock())

            return call

        return replace(probe, prepare=prepare)

    def until_j(self, at_s: float) -> float:
        """The true energy counter."""
        return self.static_w * at_s + self.drawn_j[bisect.bisect_right(self.calls_s, at_s)]

    def read(self, clock: Callable[[], float]) -> list[PowerSample]:
        at_s = clock()
        energy_j, (last_s, last_j) = self.until_j(at_s), self.last
        self.last = (at_s, energy_j)
        power_w = (energy_j - last_j) / (at_s - last_s)
        return [PowerSample(at_s, SOURCE, energy_j, power_w)]

    def integrate(self, readings: power.PowerReadings, start_s: float, end_s: float) -> power.Energy:
        """In the place of `power.integrate`: the truth."""
        del readings
        return power.Energy(EnergyStatus.VALID, gpu_energy_j=self.until_j(end_s) - self.until_j(start_s))

    def learn(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> Mapping[str, power.Instrument]:
        """Nothing about it is worth a trial."""
        del clock, sleep
        return {}

    def close(self) -> None:
        """Nothing to release."""

    @property
    def meters(self) -> power.Meters:
        return power.Meters((self,), "engine_gpus")


def pretend_loops(replace_attribute: Callable[[Any, str, Any], object], window_s: float | None = None) -> None:
    """Let `timing.loop` run without a GPU, for windows of `window_s` (None: as long as ever)."""
    replace_attribute(torch.cuda, "synchronize", lambda: None)
    replace_attribute(timing, "in_one_launch", lambda function, calls: lambda: [function() for _ in range(calls)])
    if window_s is not None:
        replace_attribute(timing, "loop", functools.partial(timing.loop, window_s=window_s))
