"""What a meter is: one or more sources, read together, one `PowerSample` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from tokenwatt.errors import TokenwattError
from tokenwatt.record import PowerSample

Clock = Callable[[], float]
"""The run's monotonic clock, seconds."""

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

    def read(self, clock: Clock) -> list[PowerSample]:
        """Read every source once, in the order of `sources`; `at_s` is the middle of the energy and power calls.

        Raises:
            MeterError: a reading that this source supports has failed.
        """
        ...

    def close(self) -> None:
        """Release the driver."""
        ...
