"""From rows to results, by hand."""

from __future__ import annotations

import pytest
from tests.factories import measurement

from tokenwatt import store
from tokenwatt.analysis.results import results_of
from tokenwatt.record import EnergyStatus, Measurement, Reason, Result, Status
from tokenwatt.terminal import print_measurements


def results(*rows: Measurement, width: float | None = None) -> dict[str, Result]:
    """Results of rows of one point, by quantity."""
    return {found.quantity: found for found in results_of(store.to_table(rows, Measurement).to_pandas(), width)}


def window(index: int, tokens: int, energy_j: float | None, **changes) -> Measurement:
    """A window of 2 s."""
    energy = {} if energy_j is None else {"energy_status": EnergyStatus.VALID, "gpu_energy_j": energy_j}
    return measurement(window_index=index, measurement_id=f"r/{index}", output_tokens=tokens, **energy | changes)


def test_energy_and_speed_of_two_windows():
    # 100 and 120 tokens in 2 s each; 200 and 300 J: 2.0 and 2.5 J/token. t(1) = 12.706, s / sqrt(2) = half the step.
    found = results(window(0, 100, 200.0), window(1, 120, 300.0))
    assert (found["output_tokens_per_s"].mean, found["output_tokens_per_s"].unit) == (55.0, "token/s")
    joules = found["joules_per_output_token"]
    assert (joules.mean, joules.windows, joules.unit, joules.method) == (2.25, 2, "J/token", "t")
    assert joules.high == pytest.approx(2.25 + 12.706 * 0.25, rel=1e-3)
    assert joules.has_converged is None
    assert "ttft_median_s" not in found


def test_only_the_deciding_quantity_is_said_to_converge():
    rows = [window(index, 100, 200.0) for index in range(6)]
    found = results(*rows, width=0.02)
    assert found["joules_per_output_token"].has_converged is True
    assert found["output_tokens_per_s"].has_converged is None
    assert results(*rows[:5], width=0.02)["joules_per_output_token"].has_converged is False
    without_meter = results(*(window(index, 100, None) for index in range(6)), width=0.02)
    assert without_meter["output_tokens_per_s"].has_converged is True


def test_a_failed_row_and_an_energy_that_is_not_trusted_do_not_count():
    lost = window(1, 140, None, energy_status=EnergyStatus.INVALID)
    failed = measurement(window_index=2, status=Status.FAILED, window_s=None, output_tokens=None)
    found = results(window(0, 100, 200.0), lost, failed)
    assert (found["joules_per_output_token"].windows, found["joules_per_output_token"].mean) == (1, 2.0)
    assert (found["output_tokens_per_s"].windows, found["output_tokens_per_s"].mean) == (2, 60.0)
    assert results(failed) == {}


def test_pairs_are_those_of_the_same_window():
    # B / A: 110 / 100 and 220 / 200 tokens: 1.1 in both pairs. Energy only in pair 0: 300 J / 110 over 200 J / 100.
    rows = [
        window(0, 100, 200.0, variant="A", point_id="r/p0"),
        window(0, 110, 300.0, variant="B", point_id="r/p1"),
        window(1, 220, None, variant="B", point_id="r/p1"),
        window(1, 200, 400.0, variant="A", point_id="r/p0"),
    ]
    found = {
        each.quantity: each for each in results_of(store.to_table(rows, Measurement).to_pandas()) if not each.variant
    }
    speed = found["B/A of output_tokens_per_s"]
    assert (speed.mean, speed.low, speed.high) == pytest.approx((1.1, 1.1, 1.1))
    assert (speed.windows, speed.point_id, speed.unit) == (2, "r/p1", "1")
    joules = found["B/A of joules_per_output_token"]
    assert (joules.mean, joules.windows, joules.low) == (pytest.approx((300 / 110) / 2.0), 1, None)


def test_a_result_says_what_its_windows_were():
    # Three windows, one of them unstable with a suspect energy, and one without energy.
    suspect = {"energy_status": EnergyStatus.SUSPECT, "energy_reasons": (Reason.THROTTLED,), "is_stable": False}
    lost = window(2, 100, None, energy_status=EnergyStatus.INVALID, is_stable=True)
    found = results(window(0, 100, 200.0, is_stable=True), window(1, 100, 200.0, **suspect), lost)
    joules, speed = found["joules_per_output_token"], found["output_tokens_per_s"]
    assert (joules.windows, joules.stable_windows, joules.energy_status) == (2, 1, EnergyStatus.SUSPECT)
    assert (speed.windows, speed.stable_windows, speed.energy_status) == (3, 2, None)
    good = results(*(window(index, 100, 200.0, is_stable=True) for index in range(2)))["gpu_power_w"]
    assert (good.stable_windows, good.energy_status) == (2, EnergyStatus.VALID)


def test_what_the_meters_leave_open_is_in_the_interval():
    # 200 J and 100 tokens in 2 s, six times, +- 6 J: 0.06 J/token over sqrt(6) = 0.02449; 3 W over sqrt(6) = 1.2247.
    rows = [window(index, 100, 200.0, gpu_energy_half_width_j=6.0) for index in range(6)]
    found = results(*rows, width=0.02)
    joules = found["joules_per_output_token"]
    assert joules.high == pytest.approx(2.02449, abs=1e-5)
    assert joules.has_converged is False
    assert found["gpu_power_w"].high == pytest.approx(101.2247, abs=1e-4)
    assert found["output_tokens_per_s"].high == 50.0


def test_a_pair_is_as_stable_as_both_of_its_windows():
    # Relative half widths 3 % and 4 %: 5 % of each ratio, over sqrt(2) pairs exp(0.05 / 1.41421).
    sides = {"A": {"point_id": "r/p0"}, "B": {"point_id": "r/p1"}}
    rows = [
        window(
            index, 100, 200.0, variant=side, gpu_energy_half_width_j={"A": 6.0, "B": 8.0}[side],
            is_stable=side == "A" or index == 0, **place,
        )
        for side, place in sides.items() for index in range(2)
    ]  # fmt: skip
    found = {each.quantity: each for each in results_of(store.to_table(rows, Measurement).to_pandas())}
    joules, speed = found["B/A of joules_per_output_token"], found["B/A of output_tokens_per_s"]
    assert (joules.stable_windows, joules.energy_status) == (1, EnergyStatus.VALID)
    assert joules.high == pytest.approx(1.035987, abs=1e-5)
    assert (speed.stable_windows, speed.energy_status, speed.high) == (1, None, 1.0)


def test_the_tail_of_twenty_windows_is_resampled():
    rows = [window(index, 100, None, ttft_p99_s=0.1 + 0.01 * (index % 3), ttft_median_s=0.1) for index in range(20)]
    found = results(*rows)
    assert (found["ttft_p99_s"].method, found["ttft_median_s"].method) == ("bootstrap", "t")


def test_a_table_has_a_line_for_a_point_and_a_sign_for_its_width(capsys):
    rows = [window(index, 100, 200.0 + index, is_stable=True) for index in range(4)]
    doubtful = window(4, 100, 202.0, is_stable=False, reasons=(Reason.POWER_DRIFTS,))
    table = store.to_table([*rows, doubtful], Measurement).to_pandas()
    print_measurements([*rows, doubtful], "title", results_of(table, 0.001))
    printed = capsys.readouterr().out
    assert printed.count("50.0") == 1  # tokens/s of all five windows
    # 2.00 to 2.03 J/token; mean 2.016.
    assert "2.02 ±" in printed
    assert printed.count("?") == 2  # beside the interval, and what it means
    assert "w x1: not stable, power_drifts (1 of 5 windows)" in printed
    assert "w x1: not_converged: joules_per_output_token is known to ±" in printed


def test_one_window_is_printed_as_before(capsys):
    row = window(0, 100, 200.0, is_stable=True)
    print_measurements([row], "title", results_of(store.to_table([row], Measurement).to_pandas()))
    printed = capsys.readouterr().out
    assert "±" not in printed
    assert "?" not in printed
    assert "windows" not in printed
