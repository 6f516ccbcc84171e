"""The run's clock: seconds since the run began, monotonic, with one UTC anchor. Engines and meters share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds since some fixed moment, monotonic."""


@dataclass(frozen=True, slots=True)
class RunClock:
    """A `Clock` whose zero is `began_at`."""

    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _origin_s: float = field(default_factory=time.perf_counter)

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter() - self._origin_s
