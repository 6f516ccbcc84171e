"""What a meter of the whole machine is: readings on the run's clock, and the energy of a window that they reach."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tokenwatt.clock import Clock
from tokenwatt.power.external.energy import NodeEnergy, Readings, is_power, node_energy
from tokenwatt.power.external.request import MeterRequest
from tokenwatt.power.meter import MeterError

POLLING_PERIOD_S = 1.0
"""Many BMCs renew their readings about once a second; `node_energy` looks whether this one does."""
MIN_WAIT_S = 3.0
MAX_WAIT_S = 30.0
"""Bounds of the time to wait for the reading behind a window's end: three periods of the meter."""
_LOOK_PERIOD_S = 0.2


class NodeMeter(ABC):
    """A context manager that reads while it is open. `energy` may be called in it, again and again."""

    def __init__(self, request: MeterRequest) -> None:
        self.text = request.text
        """What asked for it; the row's `node_meter`."""

    @abstractmethod
    def readings(self) -> Readings:
        """Everything so far.

        Raises:
            MeterError: what the meter wrote cannot be used.
        """

    @abstractmethod
    def energy(self, start_s: float, end_s: float) -> NodeEnergy:
        """Energy between two moments on the run's clock; waits a few seconds for the reading behind the later one."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reaching(self, end_s: float) -> Readings:
        """Readings up to behind `end_s`, or those that are there when the waiting is over."""
        begin_s = time.monotonic()
        while True:
            readings = self.readings()
            wait_s = min(max(MIN_WAIT_S, 3 * (readings.period_s or 0.0)), MAX_WAIT_S)
            is_there = len(readings.at_s) > 0 and readings.at_s.max() >= end_s
            if is_there or time.monotonic() - begin_s > wait_s:
                return readings
            time.sleep(_LOOK_PERIOD_S)


class PolledMeter(NodeMeter):
    """Asks for the power in a thread of its own: a BMC that takes three seconds to answer holds up nobody else.

    A reading is stamped with the middle of its request. One that fails, or is no power, is left out, and the gap speaks
    for itself.
    """

    def __init__(self, request: MeterRequest, power_w: Callable[[], float], clock: Clock) -> None:
        """power_w: one reading; raises MeterError.

        Raises:
            MeterError: the first reading fails.
        """
        super().__init__(request)
        self._power_w = power_w
        self._clock = clock
        self._rows: list[tuple[float, float]] = []
        self._failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokenwatt-node-meter", daemon=True)
        self._poll()
        self._thread.start()

    def readings(self) -> Readings:
        """Every reading so far."""
        return Readings.of_polls(tuple(self._rows))

    def energy(self, start_s: float, end_s: float) -> NodeEnergy:
        """Energy of the window; a failed request is quoted where the window suffers from it."""
        energy = node_energy(self._reaching(end_s), start_s, end_s)
        if energy.energy_j is not None or self._failure is None:
            return energy
        detail = f"{energy.detail}; last failure: {self._failure}"
        return NodeEnergy(None, energy.status, energy.reasons, detail)

    def close(self) -> None:
        """Stop asking; waits for the request that is under way, which its timeout bounds."""
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        before_s = self._clock()
        power_w = self._power_w()
        if not is_power(power_w):
            raise MeterError(f"{self.text} gives {power_w:g} W; the power of a machine is finite and > 0")
        self._rows.append(((before_s + self._clock()) / 2, power_w))

    def _run(self) -> None:
        start_s, slot = self._clock(), 0
        while True:
            elapsed_s = self._clock() - start_s
            # A slow answer costs its own slots only: the schedule stays start + n * period.
            slot = max(slot + 1, int(elapsed_s / POLLING_PERIOD_S) + 1)
            if self._stop.wait(slot * POLLING_PERIOD_S - elapsed_s):
                return
            try:
                self._poll()
            except MeterError as error:
                self._failure = str(error)
