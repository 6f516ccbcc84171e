"""The energy sections of the report: figures with intervals, verdicts with reasons, nothing where nothing is."""

from __future__ import annotations

import doctest
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import closure_term, measurement, reading, result
from tests.study.test_report import HOSTILE, Page

from tokenwatt import metrics, store
from tokenwatt.errors import UserError
from tokenwatt.record import ClosureTerm, EnergyStatus, Measurement, PowerRecord, Reason, Record, Result
from tokenwatt.report import closure_table, html, reasons, result_table, verdict_table
from tokenwatt.report.chart import value_axis
from tokenwatt.report.closure_table import closure_points
from tokenwatt.report.energy_charts import closure_figure, energy_figure
from tokenwatt.report.run_tables import RunTables
from tokenwatt.report.trace_chart import thinned, trace_figures

METERED = {
    "energy_status": EnergyStatus.VALID,
    "gpu_energy_j": 20000.0,
    "gpu_count": 2,
    "gpu_uuids": ("GPU-1", "GPU-2"),
    "window_start_s": 10.0,
    "window_s": 20.0,
    "output_tokens": 100000,
}


def frame(kind: type[Record], *rows: Record) -> pd.DataFrame:
    return pd.DataFrame([row.model_dump() for row in rows], columns=list(kind.model_fields))


def tables(*rows: Measurement, results=(), closure=(), power=()) -> RunTables:
    return RunTables(
        metrics.derive(frame(Measurement, *rows)),
        frame(Result, *results),
        frame(ClosureTerm, *closure),
        frame(PowerRecord, *power),
    )


def page(found: RunTables) -> Page:
    return Page(html.page_text(found, None))


def shown_in(found: Page, table: str) -> set[str]:
    """Ids of tables and charts on the page, of which `table` may be one."""
    return {str(attributes.get("id")) for _, attributes in found.tags} & {table}


@pytest.mark.parametrize("module", [closure_table, verdict_table], ids=lambda module: module.__name__)
def test_examples_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert (outcome.attempted > 0, outcome.failed) == (True, 0)


def test_a_run_without_energy_has_no_energy_section() -> None:
    found = page(tables(measurement()))
    assert "Verdicts" not in found.text
    assert "Energy" not in [text.strip() for text in found.visible]


def test_phases_stand_side_by_side_with_their_intervals() -> None:
    points = {"mixed": "r/p0", "prefill": "r/p1", "decode": "r/p2"}
    rows = [measurement(measurement_id=point, point_id=point, phase=phase) for phase, point in points.items()]
    prefill = {"quantity": "prefill_joules_per_input_token", "phase": "prefill", "point_id": "r/p1", "windows": 6}
    prefill |= {"stable_windows": 4, "energy_status": EnergyStatus.SUSPECT}
    decode = {"quantity": "decode_joules_per_output_token", "phase": "decode", "point_id": "r/p2", "windows": 1}
    decode |= {"stable_windows": 1}
    results = [
        result(5000.0, 4950.0, 5050.0, quantity="output_tokens_per_s", unit="token/s"),
        result(0.2, 0.198, 0.202, has_converged=True),
        result(0.15, 0.148, 0.152, quantity="marginal_joules_per_output_token"),
        result(0.021, 0.0205, 0.0215, **prefill),
        result(0.18, None, None, **decode),
    ]
    found = page(tables(*rows, results=results))
    # In the order of the columns: tokens/s, gross, marginal, prefill, decode, windows, stable, energy, converged.
    assert (
        "5,000 4,950 to 5,050 200 mJ 198 to 202 mJ 150 mJ 148 to 152 mJ 21.0 mJ 20.5 to 21.5 mJ 180 mJ no interval"
        " mixed 5, prefill 6, decode 1 mixed 5 of 5, prefill 4 of 6, decode 1 of 1 suspect yes"
    ) in found.text
    figure = energy_figure(
        result_table.result_figures(metrics.derive(frame(Measurement, *rows)), frame(Result, *results))
    )
    assert figure is not None
    both, prompts, tokens = figure["data"]
    # Distances from the mean, not ends: 0.202 - 0.2 up and 0.2 - 0.198 down; a single window has none.
    assert both["error_y"]["array"] == pytest.approx([0.002])
    assert both["error_y"]["arrayminus"] == pytest.approx([0.002])
    assert (prompts["y"], tokens["error_y"]["array"]) == ([0.021], [0.0])
    assert [text["text"] for text in figure["layout"]["annotations"]] == [
        "J per output token",
        "Prefill, J per input token",
        "Decode, J per output token",
    ]


def test_an_interval_that_stayed_too_wide_says_so() -> None:
    found = page(tables(measurement(), results=[result(0.2, 0.1, 0.3, has_converged=False)]))
    assert "100 to 300 mJ" in found.text
    assert "mixed 5 mixed 5 of 5 valid no" in found.text


def test_every_verdict_comes_with_its_reasons_in_words_and_the_state_of_the_boards() -> None:
    good = measurement(
        **METERED,
        gpu_energy_counter_j=20000.0,
        gpu_energy_sampled_j=20100.0,
        gpu_energy_relative_difference=0.005,
        gpu_energy_half_width_j=25.0,
        gpu_energy_by_gpu_j=(10200.0, 9800.0),
        gpu_power_peak_w=1150.0,
        gpu_idle_power_w=152.0,
        gpu_static_power_w=240.0,
        gpu_idle_power_after_w=160.0,
        gpu_power_limit_w=1000.0,
        gpu_power_limit_default_w=1400.0,
        gpu_sm_clock_hz=1.755e9,
        gpu_sm_clock_min_hz=1.71e9,
        gpu_memory_clock_hz=3.2e9,
        gpu_temperature_start_c=55.0,
        gpu_temperature_end_c=61.0,
        gpu_temperature_slope_c_per_s=0.1,
        gpu_other_processes=2,
        gpu_ecc=True,
        throttle_reasons=("sw_power_cap",),
        node_meter="csv:rack.csv",
        node_energy_j=31000.0,
        node_energy_status=EnergyStatus.SUSPECT,
        node_energy_reasons=(Reason.CLOCKS_APART,),
    )
    bad = measurement(
        measurement_id="r/1",
        energy_status=EnergyStatus.INVALID,
        energy_reasons=(Reason.COUNTER_STUCK, Reason.SAMPLE_GAP),
    )
    found = page(tables(good, bad))
    assert "2 windows: 1 valid, 1 invalid" in found.text
    # 20 000 J / 20 s = 1 kW; 0.1 °C/s = 6 °C/min.
    for text in (
        "20.0 kJ ± 25 J",
        "10.2 kJ + 9.80 kJ",
        "20.1 kJ +0.50 % 1.00 kW 1.15 kW 152 / 240 / 160 W 1000 of 1400 W",
        "1.75 GHz, least 1.71 GHz 3.20 GHz 55 to 61 °C +6.00 °C/min sw power cap 2 on",
        "31.0 kJ csv:rack.csv, suspect: clocks apart",
        "invalid counter stuck, sample gap",
        "the energy counter did not move while power was drawn",
        "readings are missing in the middle",
    ):
        assert text in found.text, text
    # A reason that no row names is not explained.
    assert "the energy counter went back" not in found.text


def test_every_reason_has_a_meaning() -> None:
    assert set(reasons.MEANINGS) == set(Reason)


def test_the_bar_of_a_closure_is_the_mean_of_its_windows_and_the_rest_is_stated() -> None:
    rows = [measurement(measurement_id=f"r/{index}", **METERED) for index in range(2)]
    parts = (
        {"static": 6000.0, "matmul": 13000.0, "rest": 1000.0},
        {"static": 6400.0, "matmul": 13000.0, "rest": 600.0},
    )
    closure = [
        closure_term(term, energy_j, measurement_id=f"r/{index}", joules_per_flop=0.5e-12 if term == "matmul" else None)
        for index, part in enumerate(parts)
        for term, energy_j in part.items()
    ]
    found = tables(*rows, closure=closure)
    # Means over two windows of 20 kJ: static 6.2 kJ = 31 %, matmul 13 kJ = 65 %, rest 0.8 kJ = 4 %.
    text = page(found).text
    assert "20.0 kJ 31.0 % 6.20 kJ – 65.0 % 13.0 kJ 0.5 pJ/FLOP – – 4.0 % 800 J 2 4.0 % of 20.0 kJ unexplained" in text
    figure = closure_figure(closure_points(found.measurements, found.closure))
    assert figure is not None
    assert {bar["name"]: bar["x"] for bar in figure["data"]} == {
        "static": [pytest.approx(31.0)],
        "matmul": [pytest.approx(65.0)],
        "rest": [pytest.approx(4.0)],
    }


def test_parts_that_add_up_to_more_than_was_measured_are_said_to() -> None:
    closure = [closure_term("static", 12000.0), closure_term("matmul", 9000.0), closure_term("rest", -1000.0)]
    # -1000 J of 12 000 + 9000 - 1000 = 20 000 J.
    assert "the parts add up to 5.0 % more than 20.0 kJ" in page(tables(measurement(**METERED), closure=closure)).text


def test_a_sweep_has_its_sentence_its_chart_and_a_row_per_cap() -> None:
    places = [{"point_id": f"r/p{index}", "gpu_power_cap_w": cap} for index, cap in enumerate((None, 500.0))]
    rows = [measurement(measurement_id=f"r/{index}", **place) for index, place in enumerate(places)]
    results = [
        result(100.0, 99.0, 101.0, quantity="output_tokens_per_s", unit="token/s", **places[0]),
        result(0.25, 0.24, 0.26, **places[0]),
        result(95.0, 94.0, 96.0, quantity="output_tokens_per_s", unit="token/s", **places[1]),
        result(0.2, 0.19, 0.21, **places[1]),
    ]
    found = page(tables(*rows, results=results))
    assert "Best cap 500 W: 25.0 % more tokens per joule" in found.text
    assert "500 W 95 94 to 96 95.0 % 5 4.76 to 5.26 5 best" in found.text
    assert shown_in(found, "cap-chart")
    assert "cap 500 W" in found.text


def test_a_comparison_says_what_differs_and_whether_that_is_noise() -> None:
    rows = [
        measurement(measurement_id="r/0", point_id="r/p0", variant="A", kv_cache_dtype="bfloat16"),
        measurement(measurement_id="r/1", point_id="r/p1", variant="B", kv_cache_dtype="float8_e4m3"),
    ]
    results = [
        result(0.5, 0.49, 0.51, variant="A"),
        result(0.4, 0.39, 0.41, variant="B", point_id="r/p1"),
        result(0.8, 0.78, 0.82, quantity="B/A of joules_per_output_token", unit="1", point_id="r/p1", windows=7),
        result(1.0, 0.95, 1.05, quantity="B/A of ttft_median_s", unit="1", point_id="r/p1", windows=7),
    ]
    found = page(tables(*rows, results=results))
    assert "J per output token 500 mJ 400 mJ 0.800 0.780 to 0.820 7 B 20.0 % lower" in found.text
    assert "TTFT, median – – 1.000 0.950 to 1.050 7 no difference beyond noise" in found.text
    assert "A kv_cache_dtype bfloat16 B kv_cache_dtype float8_e4m3" in found.text


def test_a_trace_holds_each_board_and_shades_each_window() -> None:
    rows = [
        measurement(measurement_id=f"r/{index}", **{**METERED, "window_start_s": 10.0 + 30 * index})
        for index in range(2)
    ]
    power = [
        reading(at_s, 300.0, source=source, measurement_id=f"r/{int(at_s) // 35}")
        for at_s in (5.0, 15.0, 25.0, 45.0, 55.0)
        for source in ("GPU-1", "GPU-2")
    ]
    power.append(reading(16.0, None, source="rapl:0"))
    found = tables(*rows, power=power)
    ((_, figure),) = trace_figures(found.measurements, found.power)
    assert [(line["name"], line["x"]) for line in figure["data"]] == [
        ("GPU-1", [5.0, 15.0, 25.0, 45.0, 55.0]),
        ("GPU-2", [5.0, 15.0, 25.0, 45.0, 55.0]),
    ]
    assert [(shape["x0"], shape["x1"]) for shape in figure["layout"]["shapes"]] == [(10.0, 30.0), (40.0, 60.0)]
    shown = page(found)
    assert shown_in(shown, "trace-0")
    assert ("label", {"for": "trace", "class": "small soft"}) in shown.tags


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.integers(2, 50))
def test_a_thinned_trace_keeps_its_peak_and_its_dip(watts: list[float], budget: int) -> None:
    rows = pd.DataFrame({"at_s": [0.05 * index for index in range(len(watts))], "power_w": watts})
    few = thinned(rows, budget)
    assert len(few) <= budget
    assert (few["power_w"].max(), few["power_w"].min()) == (max(watts), min(watts))
    assert few["at_s"].is_monotonic_increasing


def test_an_axis_is_logarithmic_where_values_lie_apart() -> None:
    assert value_axis(pd.Series([0.1, 0.4]))["type"] == "log"
    assert value_axis(pd.Series([0.1, 0.3])) == {"type": "linear", "rangemode": "tozero"}


def test_hostile_names_stay_text_in_every_section() -> None:
    place = {"engine": HOSTILE, "model": HOSTILE, "workload": HOSTILE}
    metered = {**METERED, **place, "node_meter": HOSTILE}
    rows = [
        measurement(measurement_id=f"r/{index}", point_id=f"r/p{index}", gpu_power_cap_w=cap, **metered)
        for index, cap in enumerate((None, 500.0))
    ]
    results = [
        result(
            value, value, value, quantity=quantity, point_id=row.point_id, gpu_power_cap_w=row.gpu_power_cap_w, **place
        )
        for row in rows
        for quantity, value in (("output_tokens_per_s", 100.0), ("joules_per_output_token", 0.2))
    ]
    power = [reading(at_s, 300.0, source=HOSTILE) for at_s in (1.0, 2.0)]
    text = html.page_text(tables(*rows, results=results, closure=[closure_term("static", 1.0)], power=power), None)
    assert HOSTILE not in text
    assert len(re.findall("<script", text)) == 3


def test_tables_are_read_from_the_folders_and_beside_the_files_of_measurements(tmp_path) -> None:
    for run in ("a", "b"):
        folder = tmp_path / run
        store.write([measurement(run_id=run)], Measurement, folder)
        if run == "a":
            store.write([result(0.2, run_id=run)], Result, folder)
            store.write([reading(1.0, 300.0, run_id=run)], PowerRecord, folder)
    whole = RunTables.read([tmp_path])
    assert (len(whole.measurements), len(whole.results), len(whole.closure), len(whole.power)) == (2, 1, 0, 1)
    beside = RunTables.read([tmp_path / "a" / "measurements.parquet"])
    assert (len(beside.results), list(beside.power["power_w"])) == (1, [300.0])
    assert RunTables.read([tmp_path / "b"]).results.empty


def test_a_damaged_table_is_named(tmp_path) -> None:
    store.write([measurement()], Measurement, tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"results\.parquet: not a complete parquet file"):
        RunTables.read([tmp_path])
