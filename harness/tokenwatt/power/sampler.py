"""Reads meters in the background while an engine works in the foreground."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tokenwatt.clock import Clock
from tokenwatt.power.meter import Meter
from tokenwatt.record import PowerSample

SAMPLING_PERIOD_S = 0.0618
"""Golden section of 100 ms. Boards renew their readings every 20, 25, 50 or 100 ms; a period in step with that meets
every tick at the same place and drifts slowly through it, while this one meets it everywhere within a few readings.
Polling faster than 50 ms makes some boards answer zero."""


class Sampler:
    """Context manager that reads `meters` every `period_s` on `clock`, and once more on entry and on exit.

    The readings on entry and exit put a sample on both sides of every window that lies inside the `with` block. The
    schedule is start + n * period: one late reading does not shift the next ones, and missed ones are not made up.
    Between readings the thread sleeps; the driver calls release the interpreter lock.

    Leaving the block raises what a meter raised in the background; where the block itself failed, its own error goes
    on, with the meter's as a note.
    """

    def __init__(self, meters: Sequence[Meter], clock: Clock, period_s: float = SAMPLING_PERIOD_S) -> None:
        if period_s <= 0:
            raise ValueError(f"period_s must be > 0, got {period_s}")
        self.samples: list[PowerSample] = []
        """Every reading so far, oldest first; grows while the block runs."""
        self._meters = tuple(meters)
        self._clock = clock
        self._period_s = period_s
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenwatt-power")
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        start_s = self._clock()
        self._read()
        self._running = self._executor.submit(self._run, start_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._stop.set()
        self._executor.shutdown(wait=True)
        failure = self._running.exception()
        if failure is None:
            return
        if error is None:
            raise failure
        error.add_note(f"the power sampler failed as well: {failure}")

    def _run(self, start_s: float) -> None:
        slot = 0
        while True:
            elapsed_s = self._clock() - start_s
            # `slot + 1` keeps a sleep that ends a hair early from reading the same slot twice.
            slot = max(slot + 1, math.floor(elapsed_s / self._period_s) + 1)
            stopped = self._stop.wait(slot * self._period_s - elapsed_s)
            self._read()
            if stopped:
                return

    def _read(self) -> None:
        for meter in self._meters:
            self.samples.extend(meter.read(self._clock))
