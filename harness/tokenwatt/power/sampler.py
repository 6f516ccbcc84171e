"""Reads meters in the background while an engine works in the foreground."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from types import TracebackType
from typing import Self

from tokenwatt.clock import Clock
from tokenwatt.power.log import PowerLog
from tokenwatt.power.meter import Meter

SAMPLING_PERIOD_S = 0.0625
"""Mean spacing of readings: 16 Hz."""
DITHER = 0.2
"""Spacings are even between this share less and this share more than the mean: 50 to 75 ms. Boards renew their readings
every 20 to 100 ms; readings in step with that would meet every tick at the same place, and these meet it everywhere.
Polling faster than 50 ms makes some boards answer zero."""


def due_times(start_s: float, period_s: float) -> Iterator[float]:
    """When to read, without end: dithered spacings, the same in every run."""
    random = Random(0)  # noqa: S311
    at_s = start_s
    while True:
        at_s += period_s * random.uniform(1 - DITHER, 1 + DITHER)
        yield at_s


class Sampler:
    """Context manager that reads `meters` every `period_s` on `clock`, and once more on entry and on exit.

    The readings on entry and exit put a sample on both sides of every window that lies inside the `with` block. The
    schedule is `due_times`: one late reading does not shift the next ones, and missed ones are not made up.
    Between readings the thread sleeps; the driver calls release the interpreter lock.

    Leaving the block raises what a meter raised in the background; where the block itself failed, its own error goes
    on, with the meter's as a note.
    """

    def __init__(self, meters: Sequence[Meter], clock: Clock, period_s: float = SAMPLING_PERIOD_S) -> None:
        if period_s <= 0:
            raise ValueError(f"period_s must be > 0, got {period_s}")
        self.log = PowerLog()
        """Every reading so far; grows while the block runs."""
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
        due = due_times(start_s, self._period_s)
        stopped = False
        while not stopped:
            at_s = next(due)
            # Those that were missed are left out.
            while at_s <= self._clock():
                at_s = next(due)
            stopped = self._stop.wait(at_s - self._clock())
            self._read()

    def _read(self) -> None:
        for meter in self._meters:
            self.log.extend(meter.read(self._clock))
