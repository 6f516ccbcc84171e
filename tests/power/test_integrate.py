from __future__ import annotations

from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt import power
from tokenwatt.power import Energy, Instrument, PowerLog, binned_power_w, mean_power_w
from tokenwatt.power.sampler import SAMPLING_PERIOD_S, due_times
from tokenwatt.power.ticks import Counter
from tokenwatt.record import EnergyStatus, PowerSample, Reason

GPU_A, GPU_B = "GPU-a", "GPU-b"


def reading(at_s: float, source: str = GPU_A, **quantities: Any) -> PowerSample:
    return PowerSample(float(at_s), source, **quantities)


def integrate(samples: list[PowerSample], start_s: float, end_s: float, *arguments: Any, **options: Any) -> Energy:
    return power.integrate(PowerLog(samples).readings(), start_s, end_s, *arguments, **options)


def constant(source: str = GPU_A, draws_w: float = 100.0, **changes: Any) -> list[PowerSample]:
    """Readings at 0, 1, ... 10 s of a board whose counter is current at each of them; `changes` replace quantities."""
    return [
        reading(at_s, source, **{"energy_j": 1000.0 + draws_w * at_s, "power_w": draws_w, **changes})
        for at_s in range(11)
    ]


def test_both_instruments_agree_at_constant_power_with_edges_between_readings():
    energy = integrate(constant(), 2.25, 6.75)
    # 100 W * 4.5 s
    assert energy.counter_j == pytest.approx(450.0)
    assert energy.sampled_j == pytest.approx(450.0)
    assert energy.gpu_energy_j == energy.counter_j
    assert energy.relative_difference == pytest.approx(0.0, abs=1e-12)
    assert (energy.status, energy.reasons) == (EnergyStatus.VALID, ())


def test_integral_is_the_trapezoid_with_interpolated_edges():
    samples = [reading(at_s, power_w=power_w) for at_s, power_w in enumerate([100.0, 100.0, 100.0, 101.0, 101.0])]
    # 0.5 to 2 s: 150 J; ramp from 2 to 3 s: 100.5 J; 3 to 3.5 s: 50.5 J.
    assert integrate(samples, 0.5, 3.5).sampled_j == pytest.approx(301.0)
    # The edge at 2.5 s cuts the ramp at 100.5 W: (100 + 100.5) / 2 * 0.5 = 50.125 J, and 150 J before it.
    energy = integrate(samples, 0.5, 2.5)
    assert energy.sampled_j == pytest.approx(200.125)
    # The power jumped by 1 W at some moment of the second between two readings or, since a reading was seen to hold for
    # 2 s, of 2 s before: the trapezoid is off by 3 J times a number that is uniform from -1/2 to 1/2, whose standard
    # deviation is 1 / sqrt(12).
    assert energy.half_width_j == pytest.approx(1.96 * 3 / 12**0.5)


def test_an_edge_between_ticks_is_interpolated_between_them():
    # 100 W, a reading every 0.3 s for 30 s, a tick at every whole second: readings at 1.2, 1.5 and 1.8 say 100 J.
    samples = [reading(0.3 * n, energy_j=100.0 * int(0.3 * n + 1e-9), power_w=100.0) for n in range(101)]
    known = {GPU_A: Instrument(Counter(1.0, jitter_s=0.0, call_s=0.0))}
    energy = integrate(samples, 10.45, 19.8, known)
    # 100 W * 9.35 s; the readings nearest to the edges would say 1900 - 1000 = 900 J.
    counter_j, _ = joules(energy)
    assert counter_j == pytest.approx(935.0, rel=0.002)
    assert abs(counter_j - 935.0) <= (energy.half_width_j or 0.0)
    assert (energy.status, energy.counter_period_s) == (EnergyStatus.VALID, 1.0)
    # Without a known period a reading may be as old as the counter was seen to hold: 0.9 s, 0.26 s as a standard
    # deviation, 0.37 s for two edges and 0.72 s for 95 %, which is too much of 9.35 s.
    unknown = integrate(samples, 10.45, 19.8)
    assert (unknown.status, unknown.reasons) == (EnergyStatus.INVALID, (Reason.WINDOW_TOO_SHORT,))


def test_boards_are_summed():
    energy = integrate(constant(GPU_A, 100.0) + constant(GPU_B, 250.0), 2.0, 6.0)
    # (100 + 250) W * 4 s
    assert energy.gpu_energy_j == pytest.approx(1400.0)
    assert energy.by_gpu_j == pytest.approx((400.0, 1000.0))
    assert energy.status is EnergyStatus.VALID
    known = {GPU_B: Instrument(), GPU_A: Instrument()}
    swapped = integrate(constant(GPU_A, 100.0) + constant(GPU_B, 250.0), 2.0, 6.0, known)
    assert swapped.by_gpu_j == pytest.approx((1000.0, 400.0))


@pytest.mark.parametrize(("start_s", "end_s"), [(-0.1, 5.0), (5.0, 10.1), (11.0, 14.0)])
def test_an_edge_without_a_reading_on_both_sides_is_invalid(start_s: float, end_s: float):
    energy = integrate(constant(), start_s, end_s)
    assert (energy.status, energy.reasons) == (EnergyStatus.INVALID, (Reason.EDGE_NOT_BRACKETED,))
    assert (energy.gpu_energy_j, energy.counter_j, energy.sampled_j) == (None, None, None)


def test_readings_on_the_edges_bracket_them():
    assert integrate(constant(), 0.0, 10.0).gpu_energy_j == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("missing", "status"),
    # Readings 1 s apart: without two of them the gap is 3 s, which is allowed; without three it is 4 s.
    [((5, 6), EnergyStatus.VALID), ((5, 6, 7), EnergyStatus.INVALID)],
)
def test_a_gap_over_three_periods_is_invalid(missing: tuple[int, ...], status: EnergyStatus):
    samples = [sample for sample in constant() if sample.at_s not in missing]
    energy = integrate(samples, 1.0, 9.0)
    assert energy.status is status
    assert (Reason.SAMPLE_GAP in energy.reasons) == (status is EnergyStatus.INVALID)


def test_a_gap_outside_the_window_does_no_harm():
    samples = [sample for sample in constant() if sample.at_s not in (5, 6, 7)]
    assert integrate(samples, 1.0, 4.0).status is EnergyStatus.VALID


def test_one_invalid_board_makes_the_sum_invalid():
    energy = integrate(constant(GPU_A) + constant(GPU_B)[:5], 2.0, 6.0)
    assert (energy.status, energy.gpu_energy_j) == (EnergyStatus.INVALID, None)


@pytest.mark.parametrize(
    ("changes", "reasons", "energy_j"),
    [
        pytest.param({"energy_j": None}, (Reason.COUNTER_MISSING,), 400.0, id="no counter: the integral counts"),
        pytest.param({"energy_j": 7.0}, (Reason.COUNTER_STUCK,), 400.0, id="the counter stands still"),
        pytest.param({"power_w": None}, (Reason.POWER_MISSING,), 400.0, id="no power: the counter counts"),
        # (103 - 100) / 100 = 3 %
        pytest.param({"power_w": 103.0}, (Reason.INSTRUMENTS_DISAGREE,), 400.0, id="3 % apart: the counter counts"),
        pytest.param({"power_w": 101.0}, (), 400.0, id="1 % apart"),
        pytest.param({"throttle_reasons": ("hw_thermal_slowdown",)}, (Reason.THROTTLED,), 400.0, id="too hot"),
        pytest.param({"throttle_reasons": ("sw_power_cap",)}, (), 400.0, id="at the power cap, which is normal"),
        pytest.param({"other_processes": 1}, (Reason.OTHER_PROCESS,), 400.0, id="somebody else on the GPU"),
        # The counter counts the CPU of the module too, the reading does not, and the reading is what the row is about.
        pytest.param({"power_w": 60.0, "module_power_w": 100.0}, (Reason.MODULE_SCOPE,), 240.0, id="module"),
        pytest.param({"module_power_w": 180.0}, (), 400.0, id="both speak of the GPU, beside a module reading"),
    ],
)
def test_reasons(changes: dict[str, Any], reasons: tuple[Reason, ...], energy_j: float):
    energy = integrate(constant(**changes), 2.0, 6.0)
    assert energy.reasons == reasons
    assert energy.status is (EnergyStatus.SUSPECT if reasons else EnergyStatus.VALID)
    assert energy.gpu_energy_j == pytest.approx(energy_j)
    assert energy.state.throttle_reasons == changes.get("throttle_reasons", ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"unmetered_gpus": 1}, Reason.WRONG_GPU_COUNT, id="this run is on a board that is not metered"),
        pytest.param({"energy_j": 7.0, "power_w": None}, Reason.COUNTER_STUCK, id="stuck, and nothing else to go by"),
    ],
)
def test_no_number_at_all(changes: dict[str, Any], reason: Reason):
    energy = integrate(constant(**changes), 2.0, 6.0)
    assert energy.status is EnergyStatus.INVALID
    assert reason in energy.reasons
    assert (energy.gpu_energy_j, energy.counter_j, energy.sampled_j, energy.by_gpu_j) == (None, None, None, ())


def test_a_board_that_was_to_be_metered_and_was_not():
    energy = integrate(constant(GPU_A), 2.0, 6.0, {GPU_A: Instrument(), GPU_B: Instrument()})
    assert (energy.status, energy.reasons) == (EnergyStatus.INVALID, (Reason.WRONG_GPU_COUNT,))


def test_limits():
    known = {GPU_A: Instrument(power_limit_default_w=700.0)}
    at_limit = constant(power_limit_w=700.0)
    assert integrate(at_limit, 2.0, 6.0, known).status is EnergyStatus.VALID
    below = integrate(constant(power_limit_w=500.0), 2.0, 6.0, known)
    assert (below.status, below.reasons) == (EnergyStatus.SUSPECT, (Reason.CAP_BELOW_DEFAULT,))
    assert (below.state.power_limit_w, below.state.power_limit_default_w) == (500.0, 700.0)
    assert integrate(constant(power_limit_w=500.0), 2.0, 6.0, known, cap_w=500.0).status is EnergyStatus.VALID
    changed = [s._replace(power_limit_w=500.0 if s.at_s > 4 else 700.0) for s in at_limit]
    assert integrate(changed, 2.0, 6.0).reasons == (Reason.CAP_CHANGED,)
    # Until 3.5 s the limit was as it should be.
    assert integrate(changed, 0.5, 3.5, known).reasons == ()


def test_slices_of_a_board_cannot_be_told_apart():
    energy = integrate(constant(), 2.0, 6.0, {GPU_A: Instrument(is_mig=True)})
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.MIG,))


def test_one_board_that_disagrees_is_not_hidden_by_seven_that_agree():
    samples = [sample for board in range(7) for sample in constant(f"GPU-{board}")]
    energy = integrate(samples + constant("GPU-7"), 2.0, 6.0)
    assert energy.status is EnergyStatus.VALID
    energy = integrate(samples + constant("GPU-7", power_w=104.0), 2.0, 6.0)
    # 4 W of 800 W
    assert energy.relative_difference == pytest.approx(0.005)
    assert energy.reasons == (Reason.INSTRUMENTS_DISAGREE,)


def test_a_counter_that_starts_again_is_not_believed_across_that():
    samples = [reading(at_s, energy_j=100.0 * (at_s % 5), power_w=100.0) for at_s in range(11)]
    energy = integrate(samples, 1.0, 9.0)
    assert (energy.reasons, energy.counter_j) == ((Reason.COUNTER_RESET,), None)
    assert energy.gpu_energy_j == pytest.approx(800.0)
    # Between 5 and 9 s it only grows.
    assert integrate(samples, 5.5, 8.5).reasons == ()


def test_a_counter_that_stops_at_the_window_s_end_is_noticed():
    # 100 W until 8 s, where the counter stops and the board goes on.
    samples = [reading(0.5 * n, energy_j=100.0 * min(0.5 * n, 8.0), power_w=100.0) for n in range(30)]
    energy = integrate(samples, 1.0, 8.0, {GPU_A: Instrument(Counter(0.5, jitter_s=0.0, call_s=0.0))})
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.COUNTER_STUCK,))


def test_readings_that_took_long_do_not_place_ticks():
    # 100 W and a tick every second, read every 0.3 s; every fourth call had to wait, and its middle is 0.2 s late.
    known = {GPU_A: Instrument(Counter(1.0, jitter_s=0.0, call_s=0.001))}

    def samples(is_told: bool) -> list[PowerSample]:
        late = [n % 4 == 1 for n in range(101)]
        return [
            reading(
                0.3 * n + 0.2 * is_late,
                energy_j=100.0 * int(0.3 * n + 1e-9),
                power_w=100.0,
                call_s=0.4 if is_late and is_told else 0.001,
            )
            for n, is_late in enumerate(late)
        ]

    told, untold = (integrate(samples(is_told), 10.45, 19.8, known).counter_j for is_told in (True, False))
    assert told == pytest.approx(935.0, rel=0.005)
    assert told != untold


def test_a_power_reading_that_froze_is_noticed():
    # The board draws 100 W and, from 10 s on, 200 W; the reading follows until then and says 100 W ever after.
    def samples(counts: bool) -> list[PowerSample]:
        return [
            reading(
                0.5 * n,
                energy_j=100.0 * 0.5 * n + 100.0 * max(0.0, 0.5 * n - 10) if counts else None,
                power_w=100.0 + 0.5 * (n % 3) if n < 20 else 100.0,
            )
            for n in range(80)
        ]

    energy = integrate(samples(counts=True), 5.0, 35.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.POWER_STUCK,))
    # 100 W * 30 s + 100 W * 25 s
    assert energy.gpu_energy_j == pytest.approx(5500.0)
    # Without a counter, one that is renewed every 0.1 s and then stands still for 25 s.
    alone = integrate(samples(counts=False), 5.0, 35.0, {GPU_A: Instrument(power_period_s=0.1)})
    assert {Reason.COUNTER_MISSING, Reason.POWER_STUCK} <= set(alone.reasons)


def test_a_clock_that_steps_back_is_not_put_in_order():
    samples = constant()
    samples[4], samples[5] = samples[5], samples[4]
    energy = integrate(samples, 2.0, 9.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.INVALID, (Reason.CLOCK_STEPPED_BACK,))


def test_single_missing_readings_are_bridged():
    holes = constant()
    holes[4] = holes[4]._replace(power_w=None)
    holes[6] = holes[6]._replace(energy_j=None)
    energy = integrate(holes, 2.5, 7.5)
    assert (energy.counter_j, energy.sampled_j) == (pytest.approx(500.0), pytest.approx(500.0))
    assert energy.status is EnergyStatus.VALID


def test_a_window_under_two_seconds_is_suspect():
    energy = integrate(constant(), 3.0, 4.9)
    assert (energy.status, energy.reasons) == (EnergyStatus.SUSPECT, (Reason.WINDOW_TOO_SHORT,))
    assert integrate(constant(), 3.0, 5.0).status is EnergyStatus.VALID


def test_no_meter():
    assert integrate([], 0.0, 5.0) == Energy(status=EnergyStatus.NO_METER)
    blind = constant(GPU_B, energy_j=None, power_w=None)
    energy = integrate(constant(GPU_A) + blind, 2.0, 6.0)
    assert energy.by_gpu_j == ()
    assert (energy.status, energy.gpu_energy_j) == (EnergyStatus.NO_METER, None)
    assert energy.reasons == (Reason.COUNTER_MISSING, Reason.POWER_MISSING)


def test_cpu_packages_are_apart_from_boards():
    packages = constant("rapl:package-0", 50.0, power_w=None) + constant("rapl:package-1", 60.0, power_w=None)
    energy = integrate(constant() + packages, 2.0, 6.5)
    # (50 + 60) W * 4.5 s
    assert energy.cpu_energy_j == pytest.approx(495.0)
    assert energy.gpu_energy_j == pytest.approx(450.0)
    without_gpu = integrate(packages, 2.0, 6.5)
    assert (without_gpu.status, without_gpu.cpu_energy_j) == (EnergyStatus.NO_METER, pytest.approx(495.0))
    assert integrate(packages, 2.0, 10.5).cpu_energy_j is None


def test_conditions_of_the_window():
    def board(source: str, hotter_c: float, limit_w: float) -> list[PowerSample]:
        return [
            reading(
                at_s,
                source,
                power_w=100.0,
                sm_clock_hz=1.0e9 + at_s * 1.0e8,
                memory_clock_hz=2.6e9 - hotter_c * 1.0e8,
                temperature_c=40.0 + at_s * (1 + hotter_c / 10) + hotter_c,
                power_limit_w=limit_w,
                throttle_reasons=("sw_power_cap",) if at_s == 3 else (),
                other_processes=0,
            )
            for at_s in range(11)
        ]

    state = integrate(board(GPU_A, 0.0, 700.0) + board(GPU_B, 5.0, 500.0), 2.5, 6.5).state
    # Readings in the window: 3, 4, 5, 6 s. Clocks 1.3, 1.4, 1.5, 1.6 GHz; memory 2.6 and 2.1 GHz; B is hotter: it warms
    # by 1.5 degrees a second, from 40 + 4.5 + 5 to 40 + 9 + 5.
    assert (state.sm_clock_hz, state.sm_clock_min_hz) == (pytest.approx(1.45e9), 1.3e9)
    assert (state.memory_clock_hz, state.memory_clock_min_hz) == (pytest.approx(2.35e9), 2.1e9)
    assert (state.temperature_start_c, state.temperature_end_c) == (49.5, 54.0)
    assert state.temperature_slope_c_per_s == pytest.approx(1.5)
    assert (state.power_limit_w, state.power_peak_w, state.other_processes) == (1200.0, 200.0, 0)
    assert state.throttle_reasons == ("sw_power_cap",)


def test_mean_power():
    assert mean_power_w(PowerLog(constant(draws_w=80.0)).readings(), 1.5, 8.0) == pytest.approx(80.0)
    assert mean_power_w({}, 1.5, 8.0) is None


def test_an_empty_window_is_an_error():
    with pytest.raises(ValueError, match=r"end_s must be > start_s, got 3\.0 to 3\.0"):
        integrate(constant(), 3.0, 3.0)


powers_w = st.lists(st.floats(10.0, 1000.0), min_size=11, max_size=40)
fractions = st.floats(0.05, 0.95)


def current(powers_w: list[float], reading_scale: float = 1.0) -> list[PowerSample]:
    """Readings every second; the counter is the trapezoid of the powers."""
    exact_j = np.concatenate(([0.0], np.cumsum((np.array(powers_w[1:]) + powers_w[:-1]) / 2)))
    return [
        reading(at_s, energy_j=float(exact_j[at_s]), power_w=power_w * reading_scale)
        for at_s, power_w in enumerate(powers_w)
    ]


def joules(energy: Energy) -> tuple[float, float]:
    assert energy.counter_j is not None
    assert energy.sampled_j is not None
    return energy.counter_j, energy.sampled_j


steady_w = st.lists(st.floats(90.0, 110.0), min_size=11, max_size=40)


@settings(deadline=None)
@given(steady_w, fractions)
def test_adjacent_windows_add_up(powers_w: list[float], fraction: float):
    samples, end_s = current(powers_w), len(powers_w) - 1.0
    middle_s = 3.0 + fraction * (end_s - 6.0)
    whole = joules(integrate(samples, 0.0, end_s))
    first, second = joules(integrate(samples, 0.0, middle_s)), joules(integrate(samples, middle_s, end_s))
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx(list(whole))


@settings(deadline=None)
@given(steady_w, st.floats(0.2, 5.0))
def test_the_counter_does_not_depend_on_the_scale_of_the_power_reading(powers_w: list[float], scale: float):
    start_s, end_s = 2.3, len(powers_w) - 2.7
    true_scale = joules(integrate(current(powers_w), start_s, end_s))
    other_scale = joules(integrate(current(powers_w, scale), start_s, end_s))
    assert other_scale[0] == pytest.approx(true_scale[0])
    assert other_scale[1] == pytest.approx(scale * true_scale[1])


@settings(deadline=None, max_examples=50)
@given(
    power_w=st.floats(10.0, 1000.0),
    tick_s=st.floats(0.02, 0.1),
    late_s=st.floats(0.0, 0.1),
    start_s=st.floats(4.1, 4.3),
    window_s=st.floats(5.0, 9.0),
)
def test_constant_power_is_exact_by_integral_and_within_milliseconds_by_counter(
    power_w: float, tick_s: float, late_s: float, start_s: float, window_s: float
):
    end_s = start_s + window_s + 4.1
    times_s = np.array(list(takewhile(lambda at_s: at_s < end_s, due_times(0.0, SAMPLING_PERIOD_S))))
    ticked_s = np.floor((times_s - late_s) / tick_s) * tick_s + late_s
    samples = [
        reading(at_s, energy_j=float(power_w * (10 + tick)), power_w=power_w)
        for at_s, tick in zip(times_s, ticked_s, strict=True)
    ]
    known = {GPU_A: Instrument(Counter(tick_s * 1.0002, jitter_s=0.0, call_s=0.0))}
    counter_j, sampled_j = joules(integrate(samples, start_s, start_s + window_s, known))
    assert sampled_j == pytest.approx(power_w * window_s)
    assert counter_j == pytest.approx(power_w * window_s, abs=power_w * 0.004)


def test_power_in_parts_of_a_window_is_summed_over_boards() -> None:
    samples = [
        *(reading(at_s, GPU_A, power_w=100.0 + at_s) for at_s in range(1, 5)),
        *(reading(at_s, GPU_B, power_w=50.0) for at_s in (1.5, 3.5)),
        reading(2, "rapl:0", energy_j=1.0),
    ]
    # (0, 2.5]: A reads 101 and 102, B 50; (2.5, 5]: A 103 and 104, B 50.
    readings = PowerLog(samples).readings()
    assert binned_power_w(readings, 0.0, 5.0, bins=2) == [151.5, 153.5]
    assert binned_power_w(readings, 0.0, 5.0, bins=5) is None  # B has no reading in (4, 5]
    assert binned_power_w({}, 0.0, 5.0, bins=2) is None
