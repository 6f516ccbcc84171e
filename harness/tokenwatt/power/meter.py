"""What a meter is: one or more sources, read together, one `PowerSample` for each."""

from __future__ import annotations

from typing import Literal, Protocol

from tokenwatt.clock import Clock
from tokenwatt.errors import TokenwattError
from tokenwatt.power.instrument import Instruments, Sleep
from tokenwatt.record import PowerSample

PowerScope = Literal["engine_gpus", "all_gpus"]
"""Boards that are read: those of the engine, or every board of the host."""

RAPL_PREFIX = "rapl:"
"""Sources that start so are CPU packages; every other source is a GPU board."""


class MeterError(TokenwattError):
    """A meter that worked stopped working, or the driver refuses to start."""


class Meter(Protocol):
    """Anything that can be read for power or energy."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what is read: GPU UUIDs, or `rapl:<package>`."""
        ...

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        """What can be known of its boards beforehand, by a short trial; nothing for a CPU package.

        Raises:
            MeterError: a reading that this source supports has failed.
        """
        ...

    def read(self, clock: Clock) -> list[PowerSample]:
        """Read every source once, in the order of `sources`; `at_s` is the middle of the energy and power calls.

        Raises:
            MeterError: a reading that this source supports has failed.
        """
        ...

    def close(self) -> None:
        """Release the driver."""
        ...
