"""Metrics against literal numbers."""

import math

import pandas as pd
import pytest

from tokenwatt.metrics import METRICS, derive

ROW = {
    "phase": "mixed",
    "output_tokens": 1000,
    "input_tokens": 3000,
    "window_s": 20.0,
    "gpu_count": 2,
    "tpot_median_s": 0.02,
    "gpu_energy_j": 8000.0,
    "gpu_idle_power_w": 140.0,
    "gpu_idle_power_after_w": 160.0,
    "requests_completed": 40,
    "requests_judged": 50,
    "requests_within_slo": 30,
    "usd_per_gpu_h": 3.6,
    "flop": 6e14,
    "bytes": 8e13,
    "ceiling_flop_per_s": 1e14,
    "ceiling_memory_bytes_per_s": 4e12,
}

EXPECTED = {
    "output_tokens_per_s": 50.0,  # 1000 / 20
    "input_tokens_per_s": 150.0,  # 3000 / 20
    "total_tokens_per_s": 200.0,  # 4000 / 20
    "output_tokens_per_s_per_gpu": 25.0,  # 50 / 2
    "input_tokens_per_s_per_gpu": 75.0,  # 150 / 2
    "total_tokens_per_s_per_gpu": 100.0,  # 200 / 2
    "requests_per_s": 2.0,  # 40 / 20
    "goodput_requests_per_s": 1.5,  # 30 / 20
    "slo_attainment": 0.6,  # 30 / 50
    "usd_per_mtok_output": 40.0,  # 3.6 x 2 / 3600 = 0.002 USD/s, of 50 tokens: 0.00004 USD a token
    "output_tokens_per_s_per_user": 50.0,  # 1 / 0.02
    "fraction_of_limit": 0.5,  # 8e13 / 4e12 = 20 s is more than 6e14 / 1e14 = 6 s, of 2 x 20 s
    "gpu_power_w": 400.0,  # 8000 / 20
    "joules_per_output_token": 8.0,  # 8000 / 1000
    "marginal_joules_per_output_token": 5.0,  # (8000 - (140 + 160) / 2 x 20) / 1000
    "prefill_joules_per_input_token": math.nan,
    "decode_joules_per_output_token": math.nan,
    "output_tokens_per_s_per_w": 0.125,  # 50 / 400, which is 1000 / 8000
}


@pytest.mark.parametrize("name", EXPECTED)
def test_by_hand(name):
    assert derive(pd.DataFrame([ROW]))[name].iloc[0] == pytest.approx(EXPECTED[name], rel=1e-12, nan_ok=True)


OF_REQUESTS = {"requests_per_s": 2.0, "goodput_requests_per_s": 1.5, "slo_attainment": 0.6}
OF_PREFILL = {
    "input_tokens_per_s": 150.0,
    "total_tokens_per_s": 200.0,
    "input_tokens_per_s_per_gpu": 75.0,
    "total_tokens_per_s_per_gpu": 100.0,
    **OF_REQUESTS,
    "prefill_joules_per_input_token": 8.0 / 3,  # 8000 / 3000
    "fraction_of_limit": 0.5,
    "gpu_power_w": 400.0,
}
OF_DECODE = {
    "output_tokens_per_s": 50.0,
    "output_tokens_per_s_per_gpu": 25.0,
    "total_tokens_per_s": 50.0,
    "total_tokens_per_s_per_gpu": 25.0,
    **OF_REQUESTS,
    "decode_joules_per_output_token": 8.0,
    "fraction_of_limit": 0.5,
    "gpu_power_w": 400.0,
}


@pytest.mark.parametrize(
    ("phase", "changes", "expected"),
    [
        # One token for each prompt, and no pace: what is said of generated tokens would mislead.
        ("prefill", {"tpot_median_s": None}, OF_PREFILL),
        ("decode", {"tpot_median_s": None, "input_tokens": 0}, OF_DECODE),
    ],
)
def test_a_phase_has_the_metrics_that_mean_something(phase, changes, expected):
    (row,) = derive(pd.DataFrame([{**ROW, "phase": phase, **changes}])).to_dict("records")
    found = {metric.name: row[metric.name] for metric in METRICS if not math.isnan(row[metric.name])}
    assert found == pytest.approx(expected)


def test_marginal_energy_takes_idle_power_before_where_that_after_is_unknown():
    table = derive(pd.DataFrame([{**ROW, "gpu_idle_power_after_w": None}, {**ROW, "gpu_idle_power_w": None}]))
    # (8000 - 140 x 20) / 1000; without the power before there is nothing to compare with.
    assert table["marginal_joules_per_output_token"].tolist() == pytest.approx([5.2, math.nan], nan_ok=True)


def test_every_metric_has_a_hand_computed_value():
    assert set(EXPECTED) == {metric.name for metric in METRICS}


def test_missing_inputs_give_missing_metrics_never_zero():
    table = derive(pd.DataFrame([{**ROW, "gpu_energy_j": None, "gpu_count": 0, "tpot_median_s": None}]))
    for name in ("joules_per_output_token", "output_tokens_per_s_per_gpu", "output_tokens_per_s_per_user"):
        assert math.isnan(table[name].iloc[0])
    assert table["output_tokens_per_s"].iloc[0] == 50.0


def test_stored_metrics_are_not_believed():
    table = derive(pd.DataFrame([{**ROW, "output_tokens_per_s": -1.0}]))
    assert table["output_tokens_per_s"].iloc[0] == 50.0
    assert list(table.columns).count("output_tokens_per_s") == 1
