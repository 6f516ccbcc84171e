from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tokenwatt.power import Clock, MeterError, Sampler
from tokenwatt.record import PowerSample


class Metronome:
    """A meter without instruments that remembers who read it, is slow on demand, and breaks after `lifetime` reads."""

    sources = ("GPU-a",)

    def __init__(self, lifetime: int | None = None, slow_read: int | None = None) -> None:
        self.readers: list[str] = []
        self.lifetime = lifetime
        self.slow_read = slow_read

    def read(self, clock: Clock) -> list[PowerSample]:
        self.readers.append(threading.current_thread().name)
        if self.lifetime is not None and len(self.readers) > self.lifetime:
            raise MeterError("GPU-a fell off the bus")
        unknown = dict.fromkeys(PowerSample.model_fields.keys() - {"throttle_reasons"})
        sample = PowerSample.model_validate({**unknown, "at_s": clock(), "source": "GPU-a"})
        if len(self.readers) == self.slow_read:
            time.sleep(0.1)
        return [sample]

    def close(self) -> None: ...


def test_both_ends_are_sampled_and_the_schedule_does_not_drift():
    with Sampler([Metronome()], time.monotonic, period_s=0.02) as sampler:
        start_s = time.monotonic()
        time.sleep(0.5)
        end_s = time.monotonic()
    times_s = np.array([sample.at_s for sample in sampler.samples])
    assert times_s[0] <= start_s
    assert end_s <= times_s[-1]
    # Readings come just after multiples of the period; a schedule that adds its own delays would drift through it.
    late_s = (times_s[1:-1] - times_s[0]) % 0.02
    assert np.median(late_s) < 0.005


def test_missed_readings_are_not_made_up():
    with Sampler([Metronome(slow_read=2)], time.monotonic, period_s=0.02) as sampler:
        time.sleep(0.3)
    times_s = np.array([sample.at_s for sample in sampler.samples])
    # Reading 2 blocks for five periods; what follows is one reading on the next slot, not a burst.
    assert np.diff(times_s[:-1]).min() > 0.004
    assert np.diff(times_s).max() > 0.09


def test_an_error_in_the_background_reaches_the_caller():
    with (
        pytest.raises(MeterError, match="GPU-a fell off the bus"),
        Sampler([Metronome(lifetime=2)], time.monotonic, period_s=0.01) as sampler,
    ):
        time.sleep(0.1)
    assert len(sampler.samples) == 2


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
