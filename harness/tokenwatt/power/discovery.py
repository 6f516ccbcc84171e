"""Which meters this machine has for an engine's GPUs. A meter that is not there is left out, never imitated."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenwatt.clock import Clock
from tokenwatt.power.instrument import Instrument, Instruments, Sleep
from tokenwatt.power.meter import Meter, PowerScope
from tokenwatt.power.nvml import NvmlMeter
from tokenwatt.power.processes import Subject
from tokenwatt.power.rapl import RAPL_ROOT, RaplMeter


@dataclass(frozen=True, slots=True)
class Meters:
    """The open meters; a context manager that closes them."""

    meters: tuple[Meter, ...]
    """What a `Sampler` reads."""
    scope: PowerScope | None
    """Boards among them; None where no board is read."""

    def learn(self, clock: Clock, sleep: Sleep = time.sleep) -> Instruments:
        """What each board's readings are like, by a trial of a second and a half, and what is set on it.

        Raises:
            MeterError: a board stopped answering.
        """
        learnt: dict[str, Instrument] = {}
        for meter in self.meters:
            learnt |= meter.learn(clock, sleep)
        return learnt

    def close(self) -> None:
        """Release every driver."""
        for meter in self.meters:
            meter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_meters(gpu_uuids: tuple[str, ...] | None, rapl_root: Path = RAPL_ROOT, subject: Subject = "ours") -> Meters:
    """Open what can be read: the engine's boards by UUID, and CPU packages.

    Args:
        gpu_uuids: NVML UUIDs of the boards that the engine uses; None when it cannot say which, so that every board is
            read; empty when it uses none.
        rapl_root: Linux powercap folder.
        subject: Whose processes belong on the boards; any other is a doubt.

    Raises:
        UserError: NVML knows no board of that UUID.
        MeterError: NVML is there and refuses to work.
    """
    rapl = RaplMeter.open(rapl_root)
    nvml = None if gpu_uuids == () else NvmlMeter.open(gpu_uuids, subject)
    scope: PowerScope | None = None
    if nvml is not None:
        scope = "all_gpus" if gpu_uuids is None else "engine_gpus"
    return Meters(meters=tuple(meter for meter in (nvml, rapl) if meter is not None), scope=scope)
