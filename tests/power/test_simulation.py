"""Recordings on the manual clock, the loads, and the fault table that `tokenwatt doctor --simulate` prints."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenwatt import power
from tokenwatt.power import virtual
from tokenwatt.power.log import QUANTITIES, SourceReadings
from tokenwatt.power.sampler import due_times
from tokenwatt.power.virtual import Board, Mishap, Script, loads, record
from tokenwatt.power.virtual.recorder import UNDISTURBED
from tokenwatt.power.virtual.scenarios import BOARD, scenarios
from tokenwatt.record import EnergyStatus, Reason

NOWHERE = Path("/nonexistent")
BEGIN_S, SECONDS, PERIOD_S = 100.0, 60.0, 0.05


def recording(library: virtual.Library, board: Board, seed: int = 0, mishap: Mishap = UNDISTURBED) -> SourceReadings:
    script = Script((board, board), seed=5)
    with virtual.load(script, library) as machine, power.open_meters((virtual.uuid(0),), NOWHERE) as meters:
        machine.set_time(BEGIN_S)
        return record(machine, meters.meters, SECONDS, PERIOD_S, seed, mishap).readings()[virtual.uuid(0)]


def due() -> np.ndarray:
    """When readings are due."""
    return np.array(list(itertools.takewhile(lambda at_s: at_s <= BEGIN_S + SECONDS, due_times(BEGIN_S, PERIOD_S))))


def times(readings: SourceReadings) -> np.ndarray:
    return readings.column("at_s")


def everything(readings: SourceReadings) -> bytes:
    return b"".join(readings.column(quantity).tobytes() for quantity in QUANTITIES)


def test_a_minute_is_recorded_on_the_manual_clock_and_exactly_so_again(virtual_nvml):
    once = recording(virtual_nvml.library, BOARD, seed=2)
    assert everything(recording(virtual_nvml.library, BOARD, seed=2)) == everything(once)
    assert everything(recording(virtual_nvml.library, BOARD, seed=3)) != everything(once)
    # Each reading is a little late: by 0.3 ms on average, half of the counter's call of 0.3 ms and more, seldom 20 ms.
    late_s = times(once) - due()
    assert late_s.min() > 0
    assert np.median(late_s) == pytest.approx(0.00021 + 0.00015 * 1.25, abs=1e-4)
    assert late_s.max() == pytest.approx(0.021, abs=0.002)


def test_readings_that_take_longer_than_the_period_leave_others_out(virtual_nvml):
    slow = Board(latency_s=0.04)
    times_s = times(recording(virtual_nvml.library, slow))
    # The counter and the power take 40 ms each.
    assert np.diff(times_s).min() >= 0.08
    assert len(times_s) < SECONDS / 0.08


def test_mishaps_of_the_recording_computer(virtual_nvml):
    silent_s = times(recording(virtual_nvml.library, Board(), mishap=Mishap(silence_s=(120.0, 120.5))))
    assert not np.any((silent_s >= 120.02) & (silent_s < 120.5))
    assert np.count_nonzero(np.diff(silent_s) > 0.45) == 1
    stepped_s = times(recording(virtual_nvml.library, Board(), mishap=Mishap(step_back_s=(120.0, 0.3))))
    (step_s,) = [step for step in np.diff(stepped_s) if step < 0]
    assert step_s == pytest.approx(0.05 - 0.3, abs=0.04)


def test_a_load_like_an_llms():
    knots = np.array(loads.llm_like(seed=3, seconds=60.0, begin_s=5.0))
    assert (tuple(map(tuple, knots)), loads.llm_like(4, 60.0)) == (
        loads.llm_like(3, 60.0, 5.0),
        loads.llm_like(4, 60.0),
    )
    at_s, watts = knots.T
    assert np.all(np.diff(at_s) >= 0)
    # Idle until 5 s, then a rise of a second.
    assert tuple(knots[0]) == (5.0, 80.0)
    assert at_s[1] == 6.0
    assert at_s[-1] < 65.0
    # A stretch of 1.25 s and a burst of 0.225 s on average: some 40 bursts, which are some 15 % of the time.
    lengths_s = np.diff(at_s)
    bursts = (watts[:-1] >= 600) & (watts[1:] == watts[:-1])
    assert 30 <= np.count_nonzero(bursts) <= 50
    assert np.all((lengths_s[bursts] > 0.049) & (lengths_s[bursts] < 0.401))
    assert 0.08 < lengths_s[bursts].sum() / 59 < 0.25
    steps = (watts[:-1] < 600) & (lengths_s > 1e-9)
    assert np.median(lengths_s[steps]) == pytest.approx(0.03)
    assert watts[1:][watts[1:] < 600].min() > 350
    assert np.mean(watts[1:][watts[1:] < 600]) == pytest.approx(450, abs=25)


def test_a_sine_in_straight_lines():
    knots = np.array(loads.sine(300.0, 100.0, 2.0))
    grid_s = np.linspace(0, 2, 1001)
    curve_w = 300 + 100 * np.sin(np.pi * grid_s)
    assert np.interp(grid_s, *knots.T) == pytest.approx(curve_w, abs=100 * (np.pi / 128) ** 2 / 2)


def test_scenarios_are_named_once_and_cover_every_fault_of_energy():
    names = [scenario.name for scenario in scenarios()]
    assert len(set(names)) == len(names)
    assert {scenario.reason for scenario in scenarios()} == {
        None,
        Reason.METER_ERROR,
        Reason.WINDOW_TOO_SHORT,
        Reason.EDGE_NOT_BRACKETED,
        Reason.SAMPLE_GAP,
        Reason.CLOCK_STEPPED_BACK,
        Reason.INSTRUMENTS_DISAGREE,
        Reason.COUNTER_MISSING,
        Reason.COUNTER_STUCK,
        Reason.COUNTER_RESET,
        Reason.POWER_MISSING,
        Reason.POWER_STUCK,
        Reason.TRAILING_AVERAGE,
        Reason.MODULE_SCOPE,
        Reason.MIG,
        Reason.WRONG_GPU_COUNT,
        Reason.OTHER_PROCESS,
        Reason.CAP_BELOW_DEFAULT,
        Reason.CAP_CHANGED,
        Reason.THROTTLED,
    }


@pytest.fixture(scope="module")
def outcomes() -> list[virtual.Outcome]:
    return virtual.simulate()


def test_healthy_boards_are_measured_within_half_a_percent(outcomes):
    healthy = [outcome for outcome in outcomes if outcome.must_be is EnergyStatus.VALID]
    assert len(healthy) == 16
    assert [outcome.scenario for outcome in healthy if not outcome.is_right] == []
    assert max(abs(outcome.error) for outcome in healthy) <= 0.005


def test_every_fault_gets_the_verdict_that_it_must(outcomes):
    assert [outcome.scenario for outcome in outcomes if not outcome.is_right] == []


def test_a_board_that_is_lost_spoils_what_it_did_not_outlive(outcomes):
    by_name = {outcome.scenario: outcome for outcome in outcomes}
    in_it = by_name["GPU falls off the bus in the middle"]
    assert (in_it.measured_j, in_it.reasons) == (None, (Reason.METER_ERROR,))
    after = by_name["none: GPU falls off the bus a second after the window"]
    assert (after.status, after.error) == (EnergyStatus.VALID, pytest.approx(0.0, abs=0.005))


def test_the_true_energy_is_that_of_the_engines_boards(outcomes):
    by_name = {outcome.scenario: outcome for outcome in outcomes}
    # 430 W for 20 s.
    assert by_name["none: load constant, counter every 20 ms"].true_j == pytest.approx(8600.0)
    # The second of three identical boards is not the engine's; its load is half as high.
    right = by_name["none: NVML counts the GPUs in another order"]
    assert right.true_j == pytest.approx(by_name["no counter"].true_j / 2)


def test_an_outcome_is_right_when_verdict_reason_and_joules_are():
    right = virtual.Outcome(
        scenario="stuck",
        must_be=EnergyStatus.SUSPECT,
        must_say=Reason.COUNTER_STUCK,
        accuracy=0.01,
        status=EnergyStatus.SUSPECT,
        reasons=(Reason.COUNTER_STUCK, Reason.THROTTLED),
        true_j=1000.0,
        measured_j=1009.0,
    )
    assert right.error == pytest.approx(0.009)
    assert right.is_right
    assert not replace(right, status=EnergyStatus.VALID).is_right
    assert not replace(right, reasons=(Reason.THROTTLED,)).is_right
    assert not replace(right, measured_j=989.0).is_right
    assert not replace(right, must_be=EnergyStatus.VALID, must_say=None, status=EnergyStatus.VALID).is_right
    # Nobody says what must come out: doubted joules may be anything, valid ones may not.
    own = replace(right, must_be=None, must_say=None, measured_j=500.0)
    assert own.is_right
    assert not replace(own, status=EnergyStatus.VALID, reasons=()).is_right
