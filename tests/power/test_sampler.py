from __future__ import annotations

import threading
import time
from itertools import islice

import numpy as np
import pytest

from tokenwatt.clock import Clock
from tokenwatt.power import Instruments, MeterError, Sampler
from tokenwatt.power.instrument import Sleep
from tokenwatt.power.sampler import SAMPLING_PERIOD_S, due_times
from tokenwatt.record import PowerSample


class Metronome:
    """A meter without instruments that remembers who read it, takes its time, and breaks after `lifetime` reads."""

    sources = ("GPU-a",)

    def __init__(self, lifetime: int | None = None, read_takes_s: float = 0.0, slow_read: int | None = None) -> None:
        self.readers: list[str] = []
        self.lifetime = lifetime
        self.read_takes_s = read_takes_s
        self.slow_read = slow_read

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        return {}

    def read(self, clock: Clock) -> list[PowerSample]:
        self.readers.append(threading.current_thread().name)
        if self.lifetime is not None and len(self.readers) > self.lifetime:
            raise MeterError("GPU-a fell off the bus")
        sample = PowerSample(clock(), "GPU-a")
        if self.slow_read in (None, len(self.readers)):
            time.sleep(self.read_takes_s)
        return [sample]

    def close(self) -> None: ...


def times(sampler: Sampler) -> np.ndarray:
    """When the board was read."""
    return sampler.log.readings()["GPU-a"].column("at_s")


def test_both_ends_are_sampled_and_the_schedule_does_not_drift():
    with Sampler([Metronome(read_takes_s=0.01)], time.monotonic, period_s=0.04) as sampler:
        start_s = time.monotonic()
        time.sleep(0.8)
        end_s = time.monotonic()
    times_s = times(sampler)
    assert times_s[0] <= start_s
    assert end_s <= times_s[-1]
    # Readings come just after they are due. A schedule that adds the 10 ms of each read would be later every time.
    due_s = np.array(list(islice(due_times(times_s[0], 0.04), 40)))
    late_s = times_s[1:-1] - due_s[np.searchsorted(due_s, times_s[1:-1], side="right") - 1]
    assert np.median(late_s) < 0.01


def test_readings_are_in_step_with_nothing():
    spacings_s = np.diff(list(islice(due_times(0.0, SAMPLING_PERIOD_S), 500)))
    assert spacings_s.mean() == pytest.approx(SAMPLING_PERIOD_S, rel=0.02)
    assert 0.05 <= spacings_s.min() < 0.051
    assert 0.074 < spacings_s.max() <= 0.075
    # Seen from a counter of any period, a hundred readings fall into each tenth of it.
    read_s = np.array(list(islice(due_times(0.0, SAMPLING_PERIOD_S), 100)))
    for period_s in (0.02, 0.025, 0.05, SAMPLING_PERIOD_S, 0.1, 0.125):
        assert len(set((read_s % period_s / period_s * 10).astype(int))) == 10


def test_missed_readings_are_not_made_up():
    start_s = time.monotonic()
    with Sampler([Metronome(read_takes_s=0.2, slow_read=2)], time.monotonic, period_s=0.02) as sampler:
        time.sleep(0.4)
    slots = int((time.monotonic() - start_s) / 0.02)
    # The second read blocks ten periods. One reading on entry, one at the end, and at most one in every other slot.
    assert len(times(sampler)) <= slots - 9 + 2
    assert np.diff(times(sampler)).max() > 0.19


def test_an_error_in_the_background_reaches_the_caller():
    with (
        pytest.raises(MeterError, match="GPU-a fell off the bus"),
        Sampler([Metronome(lifetime=1)], time.monotonic, period_s=0.01) as sampler,
    ):
        time.sleep(0.05)
    assert len(times(sampler)) == 1


def test_an_error_on_entry_reaches_the_caller():
    sampler = Sampler([Metronome(lifetime=0)], time.monotonic)
    with pytest.raises(MeterError), sampler:
        pytest.fail("the block must not run")


def test_the_block_s_own_error_wins_and_carries_the_meter_s_as_a_note():
    def block() -> None:
        with Sampler([Metronome(lifetime=1)], time.monotonic, period_s=0.01):
            time.sleep(0.1)
            raise KeyError("engine")

    with pytest.raises(KeyError) as caught:
        block()
    assert caught.value.__notes__ == ["the power sampler failed as well: GPU-a fell off the bus"]


def test_stopping_does_not_wait_for_the_next_reading():
    meter = Metronome()
    start_s = time.monotonic()
    with Sampler([meter], time.monotonic, period_s=60.0):
        pass
    assert time.monotonic() - start_s < 5.0
    assert len(meter.readers) == 2
    assert meter.readers[0] == threading.current_thread().name
    assert meter.readers[1].startswith("tokenwatt-power")


def test_period_must_be_positive():
    with pytest.raises(ValueError, match="period_s must be > 0, got 0"):
        Sampler([], time.monotonic, period_s=0)
