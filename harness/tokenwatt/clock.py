"""The run's clock: seconds since the run began, monotonic, with one UTC anchor. Engines and meters share it."""

from __future__ import annotations

import secrets
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

    def wall_step_s(self) -> float:
        """How far the host's time of day has left this clock since the run began: it was set, or the host slept.

        NTP's small corrections are in both clocks.
        """
        return (datetime.now(UTC) - self.began_at).total_seconds() - self()

    def new_run_id(self) -> str:
        """A name for the run, in the order of time: when it began, and four digits by chance."""
        return f"{self.began_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
