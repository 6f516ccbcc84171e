"""Energy of a window from the readings of its run."""

from __future__ import annotations

import pytest

from tokenwatt import power
from tokenwatt.power.ticks import Counter
from tokenwatt.record import EnergyStatus, PowerSample, Reason
from tokenwatt.rows import MARGIN_S, Recording
from tokenwatt.steady_state import Timeline

PERIOD_S = 0.05


def recording(growth_w_per_s: float, until_s: float = 30.0) -> Recording:
    """A board whose power grows from 300 W, read every 50 ms; its counter is always current."""
    at_s = [place * PERIOD_S for place in range(round(until_s / PERIOD_S) + 1)]
    samples = [
        PowerSample(
            at,
            "GPU-x",
            energy_j=300 * at + growth_w_per_s * at**2 / 2,
            power_w=300 + growth_w_per_s * at + 0.01 * (place % 3),
        )
        for place, at in enumerate(at_s)
    ]
    instruments = {"GPU-x": power.Instrument(Counter(PERIOD_S, 0.0, 0.0))}
    return Recording(Timeline(1), 20.0, instruments, log=power.PowerLog(samples))


def test_a_steady_board_has_valid_energy():
    energy = recording(0.0).energy(4.0, 24.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())
    assert energy.gpu_energy_j == pytest.approx(6000.0, rel=0.002)


def test_power_that_drifts_makes_the_energy_suspect():
    # 5 W/s over 20 s: 100 W of a mean of 370, more than a tenth.
    energy = recording(5.0).energy(4.0, 24.0)
    assert energy.status is EnergyStatus.SUSPECT
    assert Reason.POWER_DRIFTS in energy.reasons


def test_a_slow_rise_of_power_is_a_drift_too():
    # 0.9 W/s over 20 s: 18 W of a mean of 312.6, 5.8 % from end to end and 5.2 % between the middles of the tenths.
    assert recording(0.9).energy(4.0, 24.0).reasons == (Reason.POWER_DRIFTS,)
    # 0.6 W/s: 12 W of 308.4, 3.5 % between the middles.
    assert recording(0.6).energy(4.0, 24.0).reasons == ()


def test_a_meter_that_died_later_leaves_the_windows_before_it():
    left = recording(0.0)
    left.meter_failure = "GPU-x is lost"
    assert left.energy(2.0, 24.0).status is EnergyStatus.VALID
    assert left.energy(24.0, 44.0).reasons == (Reason.METER_ERROR,)


def test_without_any_reading_a_failed_meter_is_the_reason():
    lost = power.recorded_energy({}, 2.0, 24.0, failure="GPU-x is lost")
    assert (lost.status, lost.reasons) == (EnergyStatus.INVALID, (Reason.METER_ERROR,))
    assert power.recorded_energy({}, 2.0, 24.0).status is EnergyStatus.NO_METER


def test_readings_of_a_window_are_those_around_it():
    near_s = recording(0.0).readings(10.0, 12.0)["GPU-x"].column("at_s")
    assert near_s[0] == pytest.approx(10.0 - MARGIN_S)
    assert near_s[-1] == pytest.approx(12.0 + MARGIN_S)
    assert Recording(Timeline(1), 20.0).readings(10.0, 12.0) == {}
