"""Joules of a node meter from readings written by hand, and every reason for which there are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.power.external.energy import Readings, is_power, node_energy, zone_shift_s
from tokenwatt.record import EnergyStatus, Reason

SECONDS = np.arange(0.0, 61.0)


def test_power_is_integrated_between_interpolated_edges():
    # 100 W + 2 W/s: from 10.25 s to 40.75 s the mean is 100 + 2 * 25.5 = 151 W, over 30.5 s 4605.5 J.
    energy = node_energy(Readings(SECONDS, power_w=100 + 2 * SECONDS), 10.25, 40.75)
    assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())
    assert energy.energy_j == pytest.approx(4605.5)


def test_a_counter_is_interpolated_between_the_moments_at_which_it_was_renewed():
    # 360 W is a tenth of a watt-hour, the meter's last digit, each second; read ten times as often.
    at_s = np.arange(0.0, 60.0, 0.1)
    counter_j = 360.0 * np.floor(at_s + 1e-9)
    energy = node_energy(Readings(at_s, energy_j=counter_j), 10.55, 40.25)
    # Rows between two ticks repeat the older value: interpolated among them, the edges would err by half a tick.
    assert energy.status is EnergyStatus.VALID
    assert energy.energy_j == pytest.approx(360 * (40.25 - 10.55), rel=1e-9)


def test_a_coarse_counter_gives_way_to_power():
    # A kilowatt-hour counter of three digits stands still for 36 s at 100 W.
    coarse_j = 3600.0 * np.floor(SECONDS / 36)
    energy = node_energy(Readings(SECONDS, np.full(61, 100.0), coarse_j), 10.0, 30.0)
    assert (energy.status, energy.energy_j) == (EnergyStatus.VALID, pytest.approx(2000.0))
    alone = node_energy(Readings(SECONDS, energy_j=coarse_j), 10.0, 30.0)
    assert (alone.energy_j, alone.reasons) == (None, (Reason.COUNTER_STUCK,))


def test_a_counter_and_power_that_disagree_are_doubted():
    energy = node_energy(Readings(SECONDS, np.full(61, 110.0), 100.0 * SECONDS), 10.0, 40.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.INSTRUMENTS_DISAGREE,))
    assert energy.energy_j == pytest.approx(3000.0)


@pytest.mark.parametrize(
    ("at_s", "start_s", "end_s", "reason", "detail"),
    [
        (SECONDS, -5.0, 20.0, Reason.EDGE_NOT_BRACKETED, "first reading comes 5 s after the window's start"),
        (SECONDS, 20.0, 62.0, Reason.EDGE_NOT_BRACKETED, "last reading comes 2 s before the window's end"),
        (SECONDS[(SECONDS < 20) | (SECONDS > 25)], 10.0, 40.0, Reason.SAMPLE_GAP, "silent for 7 s, its period is 1 s"),
        (SECONDS, 4000.0, 4030.0, Reason.CLOCKS_APART, "ends 1.09 h before the window begins"),
        (np.concatenate((SECONDS[:30], SECONDS[:30] + 25)), 10.0, 40.0, Reason.CLOCK_STEPPED_BACK, "back by 4 s"),
        (SECONDS[:1], 0.0, 1.0, Reason.EDGE_NOT_BRACKETED, "gave 1 reading"),
    ],
    ids=["before the start", "after the end", "gap", "another time", "clock back", "one reading"],
)
def test_times_that_do_not_cover_the_window_give_no_joules(at_s, start_s, end_s, reason, detail):
    energy = node_energy(Readings(at_s, power_w=np.full(len(at_s), 100.0)), start_s, end_s)
    assert (energy.energy_j, energy.status, energy.reasons) == (None, EnergyStatus.INVALID, (reason,))
    assert detail in (energy.detail or "")


def test_gaps_and_steps_elsewhere_leave_a_window_alone():
    # A pause of a minute, and a step back by ten seconds, both after the window.
    at_s = np.concatenate((SECONDS, SECONDS + 120, SECONDS + 170))
    energy = node_energy(Readings(at_s, power_w=np.full(len(at_s), 100.0)), 10.0, 40.0)
    assert (energy.status, energy.energy_j) == (EnergyStatus.VALID, pytest.approx(3000.0))


@pytest.mark.parametrize("reset_s", [25, 41], ids=["in the window", "before the next renewal"])
def test_a_counter_that_goes_back_gives_no_joules(reset_s):
    counter_j = 100.0 * SECONDS
    counter_j[reset_s:] -= counter_j[reset_s]
    energy = node_energy(Readings(SECONDS, energy_j=counter_j), 10.5, 40.5)
    assert (energy.energy_j, energy.reasons) == (None, (Reason.COUNTER_RESET,))


def test_few_readings_are_doubted():
    at_s = np.arange(0.0, 60.0, 5.0)  # eight of them in 39 s
    energy = node_energy(Readings(at_s, power_w=np.full(12, 100.0)), 11.0, 50.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.WINDOW_TOO_SHORT,))
    assert energy.energy_j == pytest.approx(3900.0)


def polled(period_s: float, watts: Callable[[float], float]) -> Readings:
    """A BMC that renews its power every `period_s` and is asked each second for two minutes."""
    renewed_s = period_s * np.floor(np.arange(121.0) / period_s)
    return Readings.of_polls([(float(at), watts(renewed)) for at, renewed in enumerate(renewed_s.tolist())])


@pytest.mark.parametrize(
    ("start_s", "reason", "detail"),
    [
        (61.0, Reason.POWER_STUCK, "the meter's power was renewed 0 times in the window"),
        (75.0, Reason.WINDOW_TOO_SHORT, "the meter's power was renewed once in the window"),
    ],
)
def test_a_bmc_that_renews_twice_a_minute_gives_no_joules_of_twenty_seconds(start_s, reason, detail):
    # Work begins at 61 s and draws 4000 W instead of 1000 W: the answer of 60 s says 20 kJ where the truth is 80 kJ.
    energy = node_energy(polled(30.0, lambda at_s: 1000.0 if at_s < 61 else 4000.0), start_s, start_s + 20.0)
    assert (energy.energy_j, energy.status, energy.reasons) == (None, EnergyStatus.INVALID, (reason,))
    assert energy.detail == detail


def test_renewals_of_a_polled_power_are_counted_as_those_of_a_counter_are():
    # Every 5 s: 8 renewals in 40 s, though there are 40 answers.
    few = node_energy(polled(5.0, lambda at_s: 1000.0 + at_s), 11.0, 51.0)
    assert (few.status, few.reasons) == (EnergyStatus.SUSPECT, (Reason.WINDOW_TOO_SHORT,))
    assert few.detail == "8 renewals of the meter in the window, 10 are wanted"
    # 16 in 80 s, each of which leaves an edge open by a sixteenth of it.
    enough = node_energy(polled(5.0, lambda at_s: 1000.0 + at_s), 11.0, 91.0)
    assert (enough.status, enough.reasons) == (EnergyStatus.VALID, ())


def test_a_polled_power_that_stops_changing_is_doubted():
    # It changes each second until 30 s and never again: 20 renewals in the window, 20 s at one value.
    stuck = node_energy(polled(1.0, lambda at_s: 1000.0 + min(at_s, 30.0)), 10.5, 50.5)
    assert (stuck.status, stuck.reasons) == (EnergyStatus.SUSPECT, (Reason.POWER_STUCK,))
    assert stuck.detail == "the meter gives one and the same power for 20.5 s"


def test_whole_watts_that_repeat_now_and_then_are_good():
    # Pairs of equal answers: 20 renewals in 40 s, and nothing is held for longer than two seconds.
    energy = node_energy(polled(2.0, lambda at_s: 1000.0 + at_s % 4), 10.5, 50.5)
    assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())


def test_rows_of_a_meters_own_file_may_all_be_equal():
    energy = node_energy(Readings(SECONDS, power_w=np.full(61, 1000.0)), 10.0, 30.0)
    assert (energy.status, energy.energy_j) == (EnergyStatus.VALID, pytest.approx(20e3))


def test_a_power_is_finite_and_above_zero():
    assert is_power(np.array([300.0, 0.0, -5.0, np.nan, np.inf])).tolist() == [True, False, False, False, False]


def test_the_counter_and_the_power_of_a_machine_must_agree_as_those_of_a_board_do():
    # 3 % apart: 5 % were allowed once.
    energy = node_energy(Readings(SECONDS, np.full(61, 103.0), 100.0 * SECONDS), 10.0, 40.0)
    assert energy.reasons == (Reason.INSTRUMENTS_DISAGREE,)


@given(
    start_s=st.floats(0, 20),
    length_s=st.floats(11, 39),
    power_w=st.floats(1, 1e4),
    noise=st.lists(st.floats(-0.4, 0.4), min_size=61, max_size=61),
)
def test_constant_power_gives_its_product_with_time_however_uneven_the_readings(start_s, length_s, power_w, noise):
    at_s = SECONDS + np.array(noise)
    at_s[[0, -1]] = 0.0, 60.0
    energy = node_energy(Readings(at_s, power_w=np.full(61, power_w)), start_s, start_s + length_s)
    assert energy.energy_j == pytest.approx(power_w * length_s, rel=1e-6)


@pytest.mark.parametrize(
    ("span_s", "shift_s"),
    [
        ((7190.0, 7290.0), -7200.0),  # two hours ahead
        ((-19810.0, -19710.0), 19800.0),  # five and a half behind
        ((-100_000.0, 7240.0), -7200.0),  # a long log that ends two hours ahead of now
        ((400.0, 500.0), None),  # 400 s apart: no zone
    ],
)
def test_a_shift_by_quarter_hours_is_found_where_one_explains_the_file(span_s, shift_s):
    assert zone_shift_s(span_s, 0.0, 30.0, latest_s=95.0) == shift_s
