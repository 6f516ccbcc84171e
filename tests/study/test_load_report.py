"""Frontiers and latencies: by hand, then on the page."""

from __future__ import annotations

import pytest
from tests.factories import measurement

from tokenwatt import store
from tokenwatt.analysis.frontier import Frontier, frontiers
from tokenwatt.analysis.results import results_of
from tokenwatt.record import Measurement, Result
from tokenwatt.report.frontier_chart import frontier_figure, frontier_rows
from tokenwatt.report.html import page_text
from tokenwatt.report.latency_table import latency_rows
from tokenwatt.report.run_tables import RunTables


def sweep(*levels: tuple[int, float, float], **changes) -> list[Measurement]:
    """A window for each level: concurrency, tokens per second, TPOT; on two GPUs."""
    return [
        measurement(
            point_id=f"r/p{place}",
            measurement_id=f"r/{place}",
            concurrency=concurrency,
            window_s=10.0,
            output_tokens=round(10 * speed),
            tpot_median_s=tpot_s,
            gpu_count=2,
            **changes,
        )
        for place, (concurrency, speed, tpot_s) in enumerate(levels)
    ]


def tables(rows: list[Measurement]) -> RunTables:
    table = store.to_table(rows, Measurement).to_pandas()
    return RunTables(table, store.to_table(results_of(table), Result).to_pandas())


def found(rows: list[Measurement]) -> list[Frontier]:
    given = tables(rows)
    return frontiers(given.measurements, given.results)


def test_a_point_that_another_beats_in_both_is_not_on_the_frontier():
    # 1 / 0.01 = 100 tokens/s for one; x4 is slower for one and for all than x2, x8 is fastest for all.
    (line,) = found(sweep((1, 100.0, 0.01), (2, 180.0, 0.0125), (4, 170.0, 0.02), (8, 400.0, 0.025)))
    assert [(point.label, point.is_best) for point in line.points] == [
        ("x8", True),
        ("x4", False),
        ("x2", True),
        ("x1", True),
    ]
    assert [point.pace.mean for point in line.points] == pytest.approx([40.0, 50.0, 80.0, 100.0])
    assert [point.speed.mean for point in line.points] == pytest.approx([200.0, 85.0, 90.0, 50.0])  # per GPU, of two
    assert (line.is_per_gpu, line.is_whole) == (True, False)


def test_seven_points_are_a_frontier():
    levels = [(2**place, 100.0 * 2**place, 0.01 * (1 + place)) for place in range(7)]
    (line,) = found(sweep(*levels))
    assert line.is_whole
    assert frontier_rows([line])[0]["note"] == ""
    (short,) = frontier_rows(found(sweep(*levels[:3])))
    assert short["note"] == "3 of the 7 points that a frontier needs"


def test_points_of_two_models_are_two_sweeps():
    one = sweep((1, 100.0, 0.01), (2, 180.0, 0.0125))
    other = [
        row.model_copy(update={"model": "other", "point_id": f"r/q{place}", "measurement_id": f"r/{place + 2}"})
        for place, row in enumerate(one)
    ]
    assert [line.name for line in found([*one, *other])] == ["–", "other"]


def test_one_point_is_no_sweep():
    assert found(sweep((1, 100.0, 0.01))) == []
    assert frontier_figure([]) is None


def test_the_interval_of_the_pace_is_that_of_tpot_turned_round():
    rows = [
        row.model_copy(update={"measurement_id": f"r/{place}{window}", "tpot_median_s": tpot_s, "window_index": window})
        for place, row in enumerate(sweep((1, 100.0, 0.01), (2, 180.0, 0.0125)))
        for window, tpot_s in enumerate((0.009, 0.010, 0.011))
    ]
    given = tables(rows)
    (line,) = frontiers(given.measurements, given.results)
    tpot = given.results[(given.results["quantity"] == "tpot_median_s") & (given.results["concurrency"] == 1)].iloc[0]
    assert tpot["low"] < 0.010 < tpot["high"]
    pace = line.points[0].pace
    assert (pace.mean, pace.low, pace.high) == pytest.approx((100.0, 1 / tpot["high"], 1 / tpot["low"]))


LATENCIES = {
    f"{name}_{word}_s": scale * place
    for name, scale in (("ttft", 0.1), ("tpot", 0.01), ("itl", 0.01), ("e2el", 1.0))
    for place, word in enumerate(("mean", "median", "p90", "p95", "p99", "p99_9"), start=1)
}


def test_latencies_stand_from_mean_to_tail_with_goodput_and_price():
    row = measurement(
        **LATENCIES,
        requests_completed=40,
        requests_judged=50,
        requests_within_slo=30,
        slo_ttft_s=0.5,
        window_s=20.0,
        output_tokens=1000,
        gpu_count=2,
        usd_per_gpu_h=3.6,
    )
    first, *others = latency_rows(store.to_table([row], Measurement).to_pandas())
    assert first["latency"] == "TTFT"
    assert first["cells"] == ["100 ms", "200 ms", "300 ms", "400 ms", "500 ms", "600 ms"]
    assert [each["latency"] for each in others] == ["TPOT", "ITL", "E2EL"]
    # 30 of 50 within 20 s; 2 x 3.6 USD an hour are 0.002 USD a second, of 50 tokens.
    assert "2 req/s; 1.5 good ones, 60.0 % (TTFT 500 ms); 40 USD per million output tokens" in first["notes"]


def test_the_page_has_the_sections_where_there_is_something_to_show():
    given = [
        row.model_copy(update={**LATENCIES, "tpot_median_s": row.tpot_median_s})
        for row in sweep((1, 100.0, 0.01), (2, 180.0, 0.0125))
    ]
    page = page_text(tables(given), None)
    for name in ("frontier-chart", '<table id="frontier">', '<table id="latencies">', "p99.9"):
        assert name in page
    plain = page_text(tables([measurement()]), None)
    assert "Under load" not in plain
