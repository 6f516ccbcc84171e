"""What the virtual NVML plays: boards with their power, instruments and faults, written as the text that it reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Literal

Knots = tuple[tuple[float, float], ...]
"""Points (seconds since the epoch, W) of a true power, joined by straight lines."""


class FaultKind(StrEnum):
    """What can go wrong for a while; `virtual_nvml.h` says what each does."""

    STUCK_COUNTER = "stuck_counter"
    COUNTER_RESET = "counter_reset"
    NO_COUNTER = "no_counter"
    NO_POWER = "no_power"
    ZERO_POWER = "zero_power"
    FROZEN_POWER = "frozen_power"
    DROP = "drop"
    LOST = "lost"
    THROTTLE = "throttle"
    CAP = "cap"
    OTHER_PROCESS = "other_process"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one board, from one moment to another, in seconds since the epoch."""

    kind: FaultKind
    """Which."""
    from_s: float = 0.0
    """When it begins."""
    to_s: float = math.inf
    """When it ends; a lost board and a reset counter do not come back."""
    value: float | None = None
    """THROTTLE: bits, CAP: watts, OTHER_PROCESS: its id, DROP: an NVML error code, or None for `unknown`."""

    def __str__(self) -> str:
        """The value of a `fault` line."""
        parts = [self.kind, repr(self.from_s), repr(self.to_s), *([] if self.value is None else [repr(self.value)])]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Board:
    """One board. The numbers are lines of a script; `virtual_nvml.h` says what each does, with units and bounds."""

    knots: Knots = ((0.0, 300.0),)
    """True power; the last value is held."""
    repeat: bool = False
    power_period_s: float = 0.0
    power_phase_s: float = 0.0
    power_average_s: float = 0.0
    power_gain: float = 1.0
    power_noise_w: float = 0.0
    counter_period_s: float = 0.1
    counter_phase_s: float = 0.0
    counter_jitter_s: float = 0.0
    counter_walk_s: float = 0.0
    counter_gain: float = 1.0
    counter_module: bool = False
    module_extra_w: float = 0.0
    latency_s: float = 0.0
    counter_latency_s: float = -1.0
    power_latency_s: float = -1.0
    latency_jitter: float = 0.0
    limit_w: float = 700.0
    default_limit_w: float = 700.0
    min_limit_w: float = 200.0
    max_limit_w: float = 700.0
    may_set_limit: bool = False
    sm_clock_mhz: float = 1500.0
    memory_clock_mhz: float = 2600.0
    temperature_c: float = 50.0
    temperature_slope_c_per_s: float = 0.0
    throttle: int = 0
    ecc: bool = True
    mig: bool = False
    no_counter: bool = False
    no_instant: bool = False
    processes: tuple[int | Literal["self"], ...] = ()
    """Compute processes; `self` is the process that asks."""
    name: str | None = None
    """Product name; None leaves `Virtual GPU <n>`."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, and when."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Keys and values of the script's lines for this board."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (bool, int, float)):
                yield field.name, repr(float(value))
        if self.name is not None:
            yield "name", self.name
        if self.processes:
            yield "processes", ",".join(map(str, self.processes))
        yield from (("at", f"{at_s!r} {watts!r}") for at_s, watts in self.knots)
        yield from (("fault", str(fault)) for fault in self.faults)


@dataclass(frozen=True, slots=True)
class Script:
    """A machine. Its text is checked where it is used (`Library.check`): the library's own parser is the only one."""

    boards: tuple[Board, ...] = (Board(),)
    """Board 0, board 1 ..., each with the UUID of its number."""
    clock: Literal["manual", "monotonic"] = "manual"
    """`manual` moves only when told; `monotonic` is `time.monotonic`."""
    epoch_s: float | None = None
    """Time 0 of the script on that clock; None: the moment at which NVML starts, with a manual clock 0."""
    seed: int = 0
    """Of noise and jitter."""
    order: tuple[int, ...] = ()
    """Board behind each NVML index; empty: as numbered."""
    driver: str = "virtual"
    """Driver version."""
    old_driver: bool = False
    """A driver older than the power field."""
    limit_file: Path | None = None
    """Where processes share the limits that they set; None: each has its own."""

    def text(self) -> str:
        """The script as the library reads it."""
        machine = {
            "clock": self.clock,
            "seed": self.seed,
            "boards": len(self.boards),
            "driver": self.driver,
            "old_driver": int(self.old_driver),
            **({} if self.epoch_s is None else {"epoch_s": repr(self.epoch_s)}),
            **({"order": ",".join(map(str, self.order))} if self.order else {}),
            **({} if self.limit_file is None else {"limit_file": self.limit_file}),
        }
        lines = [f"{key} = {value}" for key, value in machine.items()]
        for number, board in enumerate(self.boards):
            lines += [f"board.{number}.{key} = {value}" for key, value in board.lines()]
        return "\n".join(lines) + "\n"


def uuid(board: int) -> str:
    """NVML UUID of a virtual board, by its number."""
    return f"GPU-00000000-0000-0000-0000-{board:012d}"
